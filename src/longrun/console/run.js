/* The page of one run: its transcript, followed live; its waterfall and its log; what can be done
   with it, and the proof that nothing of it is missing. */

import { inputOf, runAgain, textIn } from "./again.js";
import { ask, BASE, get, key, pathOf, post, Problem, remove } from "./api.js";
import { offerAnswers } from "./approvals.js";
import { $, ago, count, element, FINISHED, lasting, perFrame, say, setText, statusWords, when } from "./dom.js";
import { showSteps, stepsOf } from "./forks.js";
import { showLinks } from "./links.js";
import { Log } from "./log.js";
import { Follower } from "./longrun.js";
import { Output } from "./output.js";
import { Timeline } from "./timeline.js";
import { Times } from "./times.js";

const output = new Output($("output"));
const log = new Log(replay);

let shown = null; // {id, follower, response, entry, timeline, times}: the run on the page
let lastState = ""; // of its follower

/** Show a run; null: none. `edit(text, model)`: fill in the form to start another. */
export function show(id) {
  if (id === shown?.id) return;
  shown?.follower?.stop();
  output.clear();
  log.clear();
  for (const each of ["verdict", "facts", "waterfall", "connections"]) $(each).replaceChildren();
  lastState = "";
  shown = id ? { id, timeline: new Timeline(), times: new Times(id) } : null;
  stepsOf(shown);
  if (!id) return;
  log.timeOf = shown.times.of;
  if (/^resp_[0-9a-f]{32}$/.test(id)) {
    const request = (path, options) => ask(path, options);
    const options = { base: BASE, key: key.get, request, onEvent: take, onChange: changed };
    shown.follower = new Follower(id, options);
    about();
    question();
  } else {
    output.error("No such run", `“${id}” is not the id of a response.`);
  }
  showLinks(id);
  draw();
  scrollTo(0, 0);
}

/** One event of the run that is shown. */
function take(event, text) {
  log.add(event, text);
  shown.times.arrived(event);
  shown.timeline.take(event);
  if (log.replayed === null) output.take(event);
  if (event.type === "response.in_progress" && event.sequence_number > 1) about();
  if (event.response) shown.response = event.response;
}

/** Show the run as it was after an event; null: as it is. */
const replaySoon = perFrame(() => {
  output.clear({ keepQuestion: true });
  for (const event of log.upTo(log.replayed ?? log.last)) output.take(event);
  output.showTimes(shown.times.of);
  if (log.replayed === null && shown.follower?.state === "done") output.whenShown(judge);
});

function replay(number) {
  setText("verdict", "");
  delete $("verdict").dataset.good;
  if (shown) replaySoon();
  $("output").classList.toggle("replayed", number !== null);
}

// -- what is known besides the events --------------------------------------------------------

/** What is told of the run besides its events. */
async function about() {
  const run = shown;
  try {
    const entry = await get(`v1/runs/${run.id}`);
    if (run !== shown) return;
    run.entry = entry;
    run.times.known(entry);
    if (run.asked) showLinks(run.id, { model: entry.model, items: run.asked });
    drawFacts();
    drawWaterfall();
    showSteps();
    if (log.replayed === null) output.showTimes(run.times.of);
    log.redraw();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
  }
}

/** What the run was asked. */
async function question() {
  const run = shown;
  try {
    const items = await inputOf(run.id);
    if (run !== shown) return;
    for (const item of items) {
      const text = textIn(item);
      if (item.type === "message" && item.role === "user" && text) output.question(text);
      else output.given(item);
    }
    run.asked = items;
    showLinks(run.id, { model: run.response?.model ?? run.entry?.model, items });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
  }
}

// -- drawing --------------------------------------------------------------------------------

const drawSoon = perFrame(draw);

/** The follower has news: figures change once a frame, the state is also said aloud. */
function changed() {
  const follower = shown?.follower;
  if (follower && follower.state !== lastState) {
    lastState = follower.state;
    say(connectionWords(follower));
    if (follower.state === "done") {
      about();
      if (log.replayed === null) output.whenShown(judge);
    }
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

const NOTHING = { state: "idle", events: 0, cursor: -1, missing: 0, repeated: 0, connections: [] };

function draw() {
  const follower = shown?.follower ?? NOTHING;
  const status = shown?.response?.status ?? shown?.entry?.status ?? "";
  setText("status", status ? statusWords(status) : "…");
  $("status").dataset.status = status;
  setText("connection", follower === NOTHING ? "not connected" : connectionWords(follower));
  $("connection").dataset.state = follower.state;
  setText("run-id", shown?.id ?? "");
  setText("events", count(follower.events));
  setText("cursor", follower.cursor < 0 ? "–" : String(follower.cursor));
  setText("missing", String(follower.missing));
  setText("repeated", String(follower.repeated));
  $("missing").classList.toggle("bad", follower.missing > 0);
  $("repeated").classList.toggle("bad", follower.repeated > 0);
  $("cut").disabled = !["live", "resumed"].includes(follower.state);
  $("cancel").disabled = follower === NOTHING || follower.over || FINISHED.has(status);
  const nothing = follower === NOTHING || follower.state === "lost";
  for (const id of ["again", "edit", "delete"]) $(id).disabled = nothing;
  drawConnections(follower.connections);
  drawWaterfall();
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

let drawn = 0;

/** Twice a second at the most: it is made anew each time. */
function drawWaterfall() {
  if (!shown?.follower) return;
  const now = performance.now();
  if (now - drawn < 500 && !shown.follower.over) return;
  drawn = now;
  const replicas = (shown.entry?.attempts ?? []).map(({ replica_id: id }) => shortReplica(id));
  const live = !shown.follower.over && shown.entry;
  const until = live ? Date.now() - shown.entry.created_at * 1000 : undefined;
  shown.timeline.draw($("waterfall"), { timeOf: shown.times.of, now: until, replicas });
  $("no-waterfall").hidden = !$("waterfall").hidden;
}

const shortReplica = (id) => (id ? id.replace(/^\w+_/, "").slice(-6) : "");

function drawFacts() {
  const { entry } = shown;
  const created = entry.created_at * 1000;
  const facts = [
    ["Agent", entry.model],
    ["Started", `${when(created)} (${ago(Date.now() - created)} ago)`],
    ["Took", entry.finished_at ? lasting(entry.finished_at * 1000 - created) : "still running"],
    ["Attempts", attemptWords(entry)],
    ["Tokens", entry.usage && `${count(entry.usage.input_tokens)} in, ${count(entry.usage.output_tokens)} out`],
    ["Replica", entry.replica_id && shortReplica(entry.replica_id)],
    ["User", entry.user],
    ["Principal", entry.principal],
    ["Conversation", entry.conversation_id],
    ["Forked from", entry.forked_from && forkedFrom(entry.forked_from)],
    ["Continues", entry.previous_response_id && linkTo(entry.previous_response_id)],
    ...Object.entries(entry.metadata).map(([name, value]) => [name, value]),
  ];
  const known = facts.filter(([, value]) => value);
  $("facts").replaceChildren(
    ...known.map(([name, value]) =>
      element("div", "", "", element("dt", "", name), element("dd", "", "", value)),
    ),
  );
}

function attemptWords({ attempt, deaths, handovers }) {
  const also = [
    deaths && `${deaths} ${deaths === 1 ? "replica" : "replicas"} died`,
    handovers && `${handovers} handed over`,
  ].filter(Boolean);
  return String(attempt) + (also.length ? ` (${also.join(", ")})` : "");
}

function forkedFrom({ response_id: id, step }) {
  return element("span", "", "", linkTo(id), `, step ${step}`);
}

function linkTo(id) {
  const link = element("a", "", id);
  link.href = `#${id}`;
  return link;
}

// -- its end --------------------------------------------------------------------------------

/** The run is over and all of it is shown: was it all there, and is it what is stored? */
function judge() {
  if (!shown?.follower) return;
  const { follower, response } = shown;
  const whole = follower.missing === 0 && follower.repeated === 0 && response;
  if (response) output.end(response);
  const same = whole && output.matches(response);
  if (response?.error) tellWhy(output.error("The run failed", response.error.message));
  const reason = response?.incomplete_details?.reason;
  if (reason) output.note(`Incomplete: ${reason}.`);
  output.showTimes(shown.times.of);
  offerAnswers(output.approvals, shown, output);
  const times = follower.connections.length;
  const over = times === 1 ? "over 1 connection" : `over ${times} connections`;
  const verdict = same
    ? `All ${count(follower.events)} events arrived, each once, ${over}; ` +
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

// -- what can be done -------------------------------------------------------------------------

async function tried(title, act) {
  try {
    await act(shown.id, shown.entry?.principal || undefined);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    output.error(title, problem.message);
  }
}

$("cut").addEventListener("click", () => shown?.follower?.cut());
$("cancel").addEventListener("click", () => {
  $("cancel").disabled = true;
  tried("Could not cancel", (id, principal) => post(pathOf(id, "/cancel"), {}, principal));
});
$("again").addEventListener("click", () =>
  tried("Could not run it again", async (id, principal) => {
    location.hash = (await runAgain(id, principal)).id;
  }),
);
$("edit").addEventListener("click", () => {
  const texts = (shown.asked ?? []).filter(({ role }) => role === "user").map(textIn);
  $("input").value = texts.at(-1) ?? "";
  const model = shown.entry?.model ?? shown.response?.model;
  if ([...$("model").options].some(({ value }) => value === model)) $("model").value = model;
  location.hash = "";
  $("input").focus();
});
$("delete").addEventListener("click", () => {
  $("sure-what").textContent = "Delete this run, its events and its output?";
  $("sure").returnValue = "";
  $("sure").onclose = () => {
    if ($("sure").returnValue !== "yes") return;
    tried("Could not delete", async (id, principal) => {
      await remove(pathOf(id), principal);
      location.hash = "";
    });
  };
  $("sure").showModal();
});
