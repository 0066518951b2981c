/* The first page: all runs that the caller may see, asked for again every few seconds, all with one
   request. What is shown is in the URL's fragment, so that it can be kept, sent, and gone back to. */

import { runAgain } from "./again.js";
import { get, pathOf, post, Problem, remove, wanted } from "./api.js";
import { $, element, FINISHED, say, setText } from "./dom.js";
import { cells } from "./entry.js";

const EVERY = { live: 2000, quiet: 3000, hidden: 30_000, away: 3000 }; // ms
const PAGE = 50;

const STATUSES = [
  ["", "All"],
  ["queued,in_progress", "Live"],
  ["failed", "Failed"],
  ["incomplete", "Incomplete"],
  ["cancelled", "Cancelled"],
  ["completed", "Completed"],
];

let query = null; // what is shown, as in the fragment; null: another page is
let timer = 0;
let asking = 0; // the number of the latest request
let entries = []; // as shown
const selected = new Set();

/** Show the list for a fragment, as in `?status=failed&q=cursor`; null: none. */
export function show(fragment) {
  clearTimeout(timer);
  asking += 1;
  query = fragment === null ? null : new URLSearchParams(fragment.replace(/^\?/, ""));
  if (!query) return;
  selected.clear();
  drawFilters();
  $("rows").replaceChildren(...waiting());
  $("no-rows").hidden = true;
  refresh();
}

const everybody = () => query.get("all") === "1";

// -- asking ---------------------------------------------------------------------------------

async function refresh() {
  clearTimeout(timer);
  const mine = (asking += 1);
  let wait = EVERY.away;
  try {
    const pages = await asked();
    if (mine !== asking) return;
    wait = draw(pages) ? EVERY.live : EVERY.quiet;
    setText("list-problem", "");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine !== asking || problem.status === 401) return;
    setText("list-problem", problem.message);
    for (const each of $("rows").querySelectorAll(".waiting")) each.remove();
    $("rows").classList.toggle("stale", entries.length > 0);
    if (!problem.passing) return;
  }
  timer = setTimeout(refresh, document.hidden ? EVERY.hidden : wait);
}

/** The page, and before it, if they come first, the newest that failed. */
function asked() {
  const page = listed({ status: query.get("status"), after: query.get("after") });
  const first = query.get("first") === "failed" && !query.get("after") && !query.get("status");
  return Promise.all(first ? [listed({ status: "failed", limit: 20 }), page] : [page]);
}

function listed({ status, after, limit = PAGE }) {
  const sent = new URLSearchParams({ limit: String(limit) });
  if (status) sent.set("status", status);
  if (after) sent.set("after", after);
  if (query.get("model")) sent.set("model", query.get("model"));
  const q = query.get("q") ?? "";
  const pair = /^([^\s=]{1,64})=(.*)$/.exec(q);
  if (pair) sent.set(`metadata[${pair[1]}]`, pair[2]);
  else if (q) sent.set("q", q);
  return get(`v1/runs?${sent}`, everybody() ? "*" : undefined);
}

// -- drawing --------------------------------------------------------------------------------

/** Returns whether any is live. */
function draw(pages) {
  const page = pages.at(-1);
  const failed = pages.length > 1 ? pages[0].data : [];
  const before = new Set(failed.map(({ id }) => id));
  entries = [...failed, ...page.data.filter(({ id }) => !before.has(id))];
  $("rows").classList.remove("stale");
  for (const each of $("rows").querySelectorAll(".waiting")) each.remove();
  const known = new Map([...$("rows").children].map((row) => [row.dataset.id, row]));
  let at = null;
  for (const entry of entries) {
    const row = known.get(entry.id) ?? made(entry);
    known.delete(entry.id);
    fill(row, entry);
    if ((at ? at.nextElementSibling : $("rows").firstElementChild) !== row) {
      if (at) at.after(row);
      else $("rows").prepend(row);
    }
    at = row;
  }
  for (const [id, row] of known) {
    row.remove();
    selected.delete(id);
  }
  $("runs-table").classList.toggle("everybodys", everybody());
  drawEmpty();
  drawPaging(page);
  drawBulk();
  $("everybody-label").hidden = !page.is_admin;
  $("to-system").hidden = !page.is_operator;
  return entries.some(({ status }) => !FINISHED.has(status));
}

function made(entry) {
  const box = element("input");
  box.type = "checkbox";
  box.checked = selected.has(entry.id);
  box.setAttribute("aria-label", `Select the run ${entry.id}`);
  box.addEventListener("change", () => {
    if (box.checked) selected.add(entry.id);
    else selected.delete(entry.id);
    drawBulk();
  });
  const row = element("tr", "", "", element("td", "pick", "", box));
  row.dataset.id = entry.id;
  return row;
}

function fill(row, entry) {
  const shown = cells(entry);
  shown.forEach(({ name, text, title = "", nodes }, place) => {
    const cell = row.children[place + 1] ?? row.appendChild(element("td", name));
    const state = nodes ? nodes.key : `${text}${title}`;
    if (cell.dataset.state === state) return;
    cell.dataset.state = state;
    if (nodes) cell.replaceChildren(...nodes.made());
    else cell.textContent = text;
    if (title) cell.title = title;
  });
}

const waiting = () =>
  Array.from({ length: 6 }, () => {
    const cell = element("td", "", "", element("span", "bone"));
    cell.colSpan = 11;
    const row = element("tr", "waiting", "", cell);
    row.setAttribute("aria-hidden", "true");
    return row;
  });

function drawEmpty() {
  const filtered = ["status", "model", "q", "after"].some((name) => query.get(name));
  $("no-rows").hidden = entries.length > 0;
  setText("no-rows", filtered ? "No run is like that." : "No runs yet. Start one above.");
}

function drawPaging({ next_after: after }) {
  $("newest").hidden = !query.get("after");
  $("older").hidden = !after;
  $("older").href = fragment({ after });
  $("newest").href = fragment({ after: null });
  setText("older", entries.length ? "Older" : "Search older ones");
}

/** The fragment of this list with other traits. */
function fragment(changes) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  const text = next.toString();
  return text ? `#?${text}` : "#";
}

function drawFilters() {
  const status = query.get("status") ?? "";
  $("statuses").replaceChildren(
    ...STATUSES.map(([value, words]) => {
      const link = element("a", "", words);
      link.href = fragment({ status: value, after: null });
      if (value === status) link.setAttribute("aria-current", "true");
      return link;
    }),
  );
  if (document.activeElement !== $("q")) $("q").value = query.get("q") ?? "";
  $("by-model").value = query.get("model") ?? "";
  $("failures-first").checked = query.get("first") === "failed";
  $("failures-first").disabled = Boolean(status);
  $("everybody").checked = everybody();
}

const go = (changes) => (location.hash = fragment({ after: null, ...changes }));

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = $("q").value.trim();
  if (/^resp_[0-9a-f]{32}$/.test(q)) location.hash = q;
  else go({ q });
});
$("q").addEventListener("search", () => $("q").value || go({ q: "" }));
$("by-model").addEventListener("change", () => go({ model: $("by-model").value }));
$("failures-first").addEventListener("change", () =>
  go({ first: $("failures-first").checked ? "failed" : "" }),
);
$("everybody").addEventListener("change", () => go({ all: $("everybody").checked ? "1" : "" }));
document.addEventListener("visibilitychange", () => query && !document.hidden && refresh());
wanted.addEventListener("there", () => query && refresh());

// -- many at once -----------------------------------------------------------------------------

function drawBulk() {
  $("bulk").hidden = selected.size === 0;
  setText("bulk-count", `${selected.size} selected`);
  $("pick-all").checked = entries.length > 0 && selected.size === entries.length;
  const live = entries.some(({ id, status }) => selected.has(id) && !FINISHED.has(status));
  $("bulk-cancel").disabled = !live;
}

async function each(act, words, wantedOnes = () => true) {
  const chosen = entries.filter((entry) => selected.has(entry.id) && wantedOnes(entry));
  let done = 0;
  const problems = new Set();
  for (const entry of chosen) {
    try {
      await act(entry.id, entry.principal || undefined);
      done += 1;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      problems.add(problem.message);
    }
  }
  const said = [`${done} ${words}.`, ...problems].join(" ");
  setText("bulk-said", said);
  say(said);
  clearSelection();
  refresh();
}

function clearSelection() {
  selected.clear();
  for (const box of $("rows").querySelectorAll("input")) box.checked = false;
  drawBulk();
}

$("pick-all").addEventListener("change", () => {
  const all = $("pick-all").checked;
  selected.clear();
  if (all) for (const { id } of entries) selected.add(id);
  for (const box of $("rows").querySelectorAll("input")) box.checked = all;
  drawBulk();
});
$("bulk-cancel").addEventListener("click", () =>
  each(
    (id, principal) => post(pathOf(id, "/cancel"), {}, principal),
    "cancelled",
    ({ status }) => !FINISHED.has(status),
  ),
);
$("bulk-again").addEventListener("click", () => each(runAgain, "started again"));
$("bulk-delete").addEventListener("click", () => {
  const many = selected.size === 1 ? "this run, its events and its output" : `these ${selected.size} runs, their events and their output`;
  $("sure-what").textContent = `Delete ${many}?`;
  $("sure").returnValue = "";
  $("sure").onclose = () => {
    if ($("sure").returnValue === "yes") {
      each((id, principal) => remove(pathOf(id), principal), "deleted");
    }
  };
  $("sure").showModal();
});
$("bulk-clear").addEventListener("click", clearSelection);
