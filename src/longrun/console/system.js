/* The system, for those who run it: replicas, the queue, takeovers, the database. */

import { get, Problem } from "./api.js";
import { $, ago, button, bytes, count, element, lasting, say, setText } from "./dom.js";

const EVERY = 3000; // ms

let isShown = false;
let timer = 0;

export function show(wanted) {
  clearTimeout(timer);
  isShown = wanted;
  if (!wanted) return;
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  try {
    const found = await get("v1/system");
    if (!isShown) return;
    draw(found);
    $("to-system").hidden = false;
    setText("system-problem", "");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (!isShown) return;
    setText("system-problem", problem.message);
    $("system-body").hidden = problem.status === 403;
    if (!problem.passing) return;
  }
  timer = setTimeout(refresh, document.hidden ? 10 * EVERY : EVERY);
}

function draw(found) {
  const { replicas, queue, tables, live, waiting, notifications, retention_days: days } = found;
  $("system-body").hidden = false;
  const figures = [
    ["Running", count(live)],
    ["Waiting", count(waiting)],
    ["Events a second", count(Math.round(found.events_per_second))],
    ["Taken over in the last hour", count(found.taken_over)],
    ["Database", bytes(tables.reduce((sum, each) => sum + each.bytes, 0))],
    ["Kept after its end", `${days} ${days === 1 ? "day" : "days"}`],
    ["Notification queue", `${(notifications * 100).toFixed(notifications ? 2 : 0)} %`],
  ];
  $("system-figures").replaceChildren(
    ...figures.map(([name, value]) =>
      element("div", "", "", element("dt", "", name), element("dd", "", value)),
    ),
  );
  table("replicas", replicas, (each) => [
    each.id.replace(/^\w+_/, "").slice(-6),
    `${each.hostname} · ${each.pid}`,
    each.version,
    each.agents === null ? "" : each.agents.join(", "),
    each.lease_seconds > 0 ? `${lasting(each.lease_seconds * 1000)} left` : "ran out",
    each.has_room === null ? "" : each.has_room ? "yes" : "no",
    count(each.runs),
    count(Math.round(each.events_per_second)),
    ago(Date.now() - each.started_at * 1000),
    each.draining ? "draining" : drain(each),
  ]);
  table("queue", queue, (each) => [
    each.served === false ? `${each.model} (no replica serves it)` : each.model,
    each.principal || "–",
    count(each.waiting),
    lasting(each.oldest_seconds * 1000),
  ]);
  table("tables", tables, (each) => [each.name, bytes(each.bytes), count(each.rows)]);
}

/** What drains a replica, to be copied, and run where it is. */
function drain({ hostname, pid }) {
  const command = `kill -TERM ${pid}`;
  const shown = element("code", "", command);
  if (!navigator.clipboard) return shown; // only on https and localhost
  const copy = button("Copy", "quiet", async () => {
    await navigator.clipboard.writeText(command);
    say(`Copied: ${command}, for ${hostname}.`);
  });
  copy.setAttribute("aria-label", `Copy what drains process ${pid} of ${hostname}`);
  return element("span", "", "", shown, " ", copy);
}

function table(id, rows, cellsOf) {
  const names = [...$(id).closest("table").querySelectorAll("th")].map((each) => each.textContent);
  $(id).replaceChildren(
    ...rows.map((row) =>
      element("tr", "", "", ...cellsOf(row).map((text, place) => {
        const cell = element("td", "", ...(text instanceof Node ? ["", text] : [text]));
        cell.dataset.name = names[place];
        return cell;
      })),
    ),
  );
  $(`no-${id}`)?.toggleAttribute("hidden", rows.length > 0);
}
