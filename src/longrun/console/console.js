/* Wires the page. The run that is shown is the one in the URL's fragment, so a reload shows it
   again and the back button goes to the one before. */

import { get, key, pathOf, post, Problem, tokenFor, wanted } from "./api.js";
import { element, Output, perFrame } from "./output.js";
import * as recent from "./recent.js";
import { Follower } from "./stream.js";

const $ = (id) => document.getElementById(id);

const output = new Output($("output"));

const STATUS_WORDS = { in_progress: "in progress" };
const FINISHED = new Set(["completed", "failed", "incomplete", "cancelled"]);

let shown = null; // {id, follower, response}: the run on the page
let lastState = ""; // of its follower

// -- starting a run -------------------------------------------------------------------------

async function loadModels() {
  try {
    const { data } = await get("v1/models");
    $("model").replaceChildren(...data.map(({ id }) => element("option", "", id)));
    $("problem").textContent = "";
  } catch (problem) {
    if (problem.status === 401) return; // signing in loads them
    complain(problem);
    setTimeout(loadModels, 2000);
  }
}

// -- signing in -----------------------------------------------------------------------------

/** The server asks for a key, or does not take the one that there is. */
function askForKey() {
  setText("key-problem", key.get() ? "The server does not take this key." : "");
  key.set("");
  drawKey(true);
  $("key").focus();
}

function drawKey(asked) {
  $("sign-in").hidden = !asked;
  $("start").hidden = asked;
  $("sign-out").hidden = !key.get();
}

function signIn(event) {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  begin();
}

function signOut() {
  key.set("");
  recent.forget();
  location.hash = "";
  location.reload();
}

/** Load what the page needs of the server, for whoever is signed in. */
async function begin() {
  setText("key-problem", "");
  drawKey(false);
  shown?.follower?.stop();
  shown = null;
  await loadModels();
  showFragment();
  refreshRuns();
}

async function start(event) {
  event.preventDefault();
  const [model, input] = [$("model").value, $("input").value];
  $("problem").textContent = "";
  $("go").disabled = true;
  try {
    const response = await post("v1/responses", { model, input, background: true });
    recent.add({ id: response.id, model, input, status: response.status });
    location.hash = response.id; // shows it: see showFragment
  } catch (problem) {
    complain(problem);
  } finally {
    $("go").disabled = false;
  }
}

async function cancel() {
  $("cancel").disabled = true;
  try {
    await post(pathOf(shown.id, "/cancel"), {});
  } catch (problem) {
    output.error("Could not cancel", problem.message);
  }
}

function complain(problem) {
  if (!(problem instanceof Problem)) throw problem;
  setText("problem", problem.message);
}

// -- showing a run --------------------------------------------------------------------------

function showFragment() {
  const id = location.hash.slice(1);
  if (!id || id === shown?.id) return;
  shown?.follower?.stop();
  output.clear();
  $("verdict").textContent = "";
  lastState = "";
  shown = { id, follower: null, response: null };
  const known = recent.find(id);
  if (known) output.question(known.input);
  if (!/^resp_[0-9a-f]{32}$/.test(id)) {
    output.error("No such run", `“${id}” is not the id of a response.`);
  } else {
    shown.follower = new Follower(id, { onEvent: take, onChange: changed });
  }
  showLinks(known);
  drawRun();
  drawRuns();
  // On a phone the run is below the form.
  $("run").scrollIntoView({ block: "nearest" });
}

/** One event of the run that is shown. */
function take(event) {
  output.take(event);
  if (!event.response) return;
  shown.response = event.response;
  if (recent.note(shown.id, event.response.status)) drawRuns();
}

const drawSoon = perFrame(drawRun);

/** The follower has news: figures change once a frame, the state is also said aloud. */
function changed() {
  const follower = shown?.follower;
  if (follower && follower.state !== lastState) {
    lastState = follower.state;
    say(connectionWords(follower));
    if (follower.state === "done") output.whenShown(judge);
    if (follower.state === "lost") output.error("Stream lost", follower.problem);
  }
  drawSoon();
}

function connectionWords({ state, resumedAt, cursor }) {
  return {
    connecting: "connecting…",
    live: "live",
    resumed: `resumed at ${resumedAt}`,
    reconnecting: "reconnecting…",
    cut: `cut after ${cursor}`,
    done: "finished",
    lost: "lost",
  }[state];
}

function say(text) {
  $("said").textContent = text;
}

// -- drawing --------------------------------------------------------------------------------

const NOTHING = { state: "idle", events: 0, cursor: -1, missing: 0, repeated: 0, connections: [] };

function drawRun() {
  const follower = shown?.follower ?? NOTHING;
  const status = shown?.response?.status ?? "";
  setText("status", status ? (STATUS_WORDS[status] ?? status) : "none yet");
  $("status").dataset.status = status;
  setText("connection", follower === NOTHING ? "not connected" : connectionWords(follower));
  $("connection").dataset.state = follower.state;
  setText("run-id", shown?.id ?? "");
  setText("events", follower.events.toLocaleString("en"));
  setText("cursor", follower.cursor < 0 ? "–" : String(follower.cursor));
  setText("missing", String(follower.missing));
  setText("repeated", String(follower.repeated));
  $("missing").classList.toggle("bad", follower.missing > 0);
  $("repeated").classList.toggle("bad", follower.repeated > 0);
  $("cut").disabled = !["live", "resumed"].includes(follower.state);
  $("cancel").disabled = follower === NOTHING || follower.over || FINISHED.has(status);
  drawConnections(follower.connections);
}

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

const ENDS = { cut: "cut", broken: "broken off", end: "end", lost: "lost", left: "left" };

function drawConnections(connections) {
  const list = $("connections");
  while (list.children.length > connections.length) list.lastChild.remove();
  connections.forEach(({ first, last, end }, place) => {
    const text = `${first}–${last < first ? "" : last} ${ENDS[end] ?? "live"}`;
    const entry = list.children[place] ?? list.appendChild(element("li"));
    if (entry.textContent === text) return;
    entry.textContent = text;
    entry.dataset.end = end ?? "live";
    if (place === connections.length - 1) list.scrollLeft = list.scrollWidth;
  });
}

/** The run is over and all of it is shown: was it all there, and is it what is stored? */
function judge() {
  const { follower, response } = shown;
  const whole = follower.missing === 0 && follower.repeated === 0 && response;
  if (response) output.end(response);
  const same = whole && output.matches(response);
  if (response?.error) tellWhy(output.error("The run failed", response.error.message));
  const reason = response?.incomplete_details?.reason;
  if (reason) output.note(`Incomplete: ${reason}.`);
  const times = follower.connections.length;
  const over = times === 1 ? "over 1 connection" : `over ${times} connections`;
  const verdict = same
    ? `All ${follower.events.toLocaleString("en")} events arrived, each once, ${over}; ` +
      "the text equals the stored response."
    : "What arrived differs from what is stored.";
  $("verdict").textContent = verdict;
  $("verdict").dataset.good = Boolean(same);
  say(verdict);
}

/** Why a run failed, for whom the server tells it: an admin, or everybody (LONGRUN_SHOW_ERRORS). */
async function tellWhy(body) {
  try {
    const { reason } = await get(pathOf(shown.id, "/failure"));
    if (reason && body.isConnected) output.reason(body, reason);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
  }
}

function showLinks(known) {
  const base = new URL(pathOf(shown.id), document.baseURI).href;
  const create = new URL("v1/responses", document.baseURI).href;
  $("raw").href = `${base}?stream=true`;
  $("json").href = base;
  const bearer = key.get() ? ' -H "authorization: Bearer $LONGRUN_API_KEY"' : "";
  const lines = [];
  if (known) {
    const body = JSON.stringify({ model: known.model, input: known.input, background: true });
    lines.push(
      "# start it",
      `curl ${create}${bearer} -H 'content-type: application/json' \\`,
      `  -d '${body.replaceAll("'", "'\\''")}'`,
    );
  }
  lines.push(
    "# follow it; after a cut, pass the last sequence number received",
    `curl -N${bearer} '${base}?stream=true'`,
    `curl -N${bearer} '${base}?stream=true&starting_after=41'`,
  );
  $("curl").textContent = lines.join("\n");
  $("copy").disabled = false;
}

function drawRuns() {
  const runs = recent.all();
  $("runs").replaceChildren(...runs.map(runEntry));
  $("no-runs").hidden = runs.length > 0;
  $("forget").hidden = runs.length === 0;
}

function runEntry({ id, model, input, status, at }) {
  const when = new Date(at).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  const badge = element("span", "dot");
  badge.dataset.status = status;
  const about = element("span", "about", `${STATUS_WORDS[status] ?? status} · ${model} · ${when}`);
  const link = element("a", "", "", badge, element("span", "asked", input), about);
  link.href = `#${id}`;
  if (id === shown?.id) link.setAttribute("aria-current", "true");
  return element("li", "", "", link);
}

/** Runs that went on while this page was closed. */
async function refreshRuns() {
  for (const { id, status } of recent.all()) {
    if (FINISHED.has(status) || status === "gone") continue;
    try {
      if (recent.note(id, (await get(pathOf(id))).status)) drawRuns();
    } catch (problem) {
      if (problem.status === 404 && recent.note(id, "gone")) drawRuns();
    }
  }
}

// -- the page -------------------------------------------------------------------------------

async function copy() {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

/** A link to what a key is needed for: a new tab has none, so it gets a token. */
async function openLink(event) {
  if (!key.get()) return;
  event.preventDefault();
  const link = event.currentTarget;
  const opened = open("about:blank", "_blank");
  try {
    const token = await tokenFor(shown.id);
    const url = new URL(link.href);
    url.search += url.search ? token : `?${token.slice(1)}`;
    if (opened) {
      opened.opener = null;
      opened.location = url.href;
    }
  } catch (problem) {
    opened?.close();
    output.error("Could not open", problem.message);
  }
}

$("sign-in").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", signOut);
$("raw").addEventListener("click", openLink);
$("json").addEventListener("click", openLink);
wanted.addEventListener("key", askForKey);
$("start").addEventListener("submit", start);
$("start").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("start").requestSubmit();
});
$("cut").addEventListener("click", () => shown?.follower?.cut());
$("cancel").addEventListener("click", cancel);
$("copy").addEventListener("click", copy);
$("copy").hidden = !navigator.clipboard; // only on https and localhost
$("forget").addEventListener("click", () => {
  recent.forget();
  drawRuns();
  $("model").focus();
});
addEventListener("hashchange", showFragment);
addEventListener("storage", drawRuns); // another tab started one
drawRuns();
begin();
