/* Wires the page: signing in, the form, and which view the URL's fragment asks for. So a reload
   shows the same again, and the back button goes to what was before. */

import { get, key, post, Problem, wanted } from "./api.js";
import { $, element, setText } from "./dom.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import * as system from "./system.js";

// -- which view -----------------------------------------------------------------------------

function route() {
  const fragment = decodeURIComponent(location.hash.slice(1));
  const isList = fragment === "" || fragment.startsWith("?");
  const view = isList ? "runs" : fragment === "system" ? "system" : "run";
  for (const each of ["runs", "run", "system"]) $(`${each}-view`).hidden = each !== view;
  for (const link of document.querySelectorAll(".views a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  runs.show(isList ? fragment : null);
  run.show(view === "run" ? fragment : null);
  system.show(view === "system");
}

// -- starting a run -------------------------------------------------------------------------

async function loadModels() {
  try {
    const { data } = await get("v1/models");
    const chosen = $("model").value;
    const names = data.map(({ id }) => id);
    $("model").replaceChildren(...names.map((name) => element("option", "", name)));
    if (names.includes(chosen)) $("model").value = chosen;
    const all = element("option", "", "Any agent");
    all.value = "";
    const filter = $("by-model").value;
    $("by-model").replaceChildren(all, ...names.map((name) => element("option", "", name)));
    $("by-model").value = names.includes(filter) ? filter : "";
    setText("problem", "");
  } catch (problem) {
    if (problem.status === 401) return; // signing in loads them
    complain(problem);
    setTimeout(loadModels, 2000);
  }
}

async function start(event) {
  event.preventDefault();
  const [model, input] = [$("model").value, $("input").value];
  setText("problem", "");
  $("go").disabled = true;
  try {
    const response = await post("v1/responses", { model, input, background: true });
    location.hash = response.id; // shows it: see route
  } catch (problem) {
    complain(problem);
  } finally {
    $("go").disabled = false;
  }
}

function complain(problem) {
  if (!(problem instanceof Problem)) throw problem;
  setText("problem", problem.message);
}

// -- signing in -----------------------------------------------------------------------------

/** The server asks for a key, or does not take the one that there is. */
function askForKey() {
  setText("key-problem", key.get() ? "The server does not take this key." : "");
  key.set("");
  drawKey(true);
  for (const view of ["runs", "run", "system"]) $(`${view}-view`).hidden = true;
  runs.show(null);
  system.show(false);
  $("key").focus();
}

function drawKey(asked) {
  $("sign-in").hidden = !asked;
  $("views").hidden = asked;
  $("sign-out").hidden = !key.get();
  $("to-system").hidden ||= asked;
}

function signIn(event) {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  begin();
}

function signOut() {
  key.set("");
  location.hash = "";
  location.reload();
}

/** Load what the page needs of the server, for whoever is signed in. */
async function begin() {
  setText("key-problem", "");
  drawKey(false);
  run.show(null);
  await loadModels();
  if ($("sign-in").hidden) route();
}

// -- keys -----------------------------------------------------------------------------------

const TYPED = "input:not([type=checkbox], [type=range]), textarea, select";

function pressed(event) {
  if (event.target.closest(TYPED) || event.ctrlKey || event.metaKey || event.altKey) return;
  if ($("sure").open || !$("sign-in").hidden) return;
  const act = { "/": () => $("q").focus(), n: () => $("input").focus() }[event.key];
  if (!act) return;
  event.preventDefault();
  if (!$("runs-view").hidden) return act();
  location.hash = "";
  setTimeout(act); // when it is shown
}

$("sign-in").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", signOut);
wanted.addEventListener("key", askForKey);
wanted.addEventListener("away", () => ($("away").hidden = false));
wanted.addEventListener("there", () => ($("away").hidden = true));
$("start").addEventListener("submit", start);
$("start").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("start").requestSubmit();
});
document.addEventListener("keydown", pressed);
addEventListener("hashchange", route);
begin();
