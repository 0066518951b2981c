/* The waterfall of a run: its model turns and tools over time, attempts and replicas, made of its
   events and of when they came. */

import { element, lasting } from "./dom.js";

const MOST_ROWS = 200;

/** Bars are {name, kind: turn or tool, from, to, how}, between two events by their numbers. */
export class Timeline {
  bars = [];
  takeovers = []; // the numbers of the events with which attempts after the first begin
  #names = new Map(); // of tools, by output index
  #tools = new Map(); // the bars of those that run
  #turn = null;
  #turns = 0;
  #boundary = 0;

  /** Take one event of the run. */
  take(event) {
    const { type, sequence_number: number, output_index: index, item } = event;
    if (type === "response.in_progress") {
      if (number > 1) this.#takenOver(number);
    } else if (event.response) {
      this.#close(number, event.type === "response.completed" ? "" : "lost");
    } else if (type === "response.mcp_call.in_progress") {
      this.#turn = null;
      const name = this.#names.get(index) ?? "tool";
      this.#tools.set(index, this.#begin({ name, kind: "tool", from: number, to: null, how: "" }));
    } else if (type === "response.output_item.done" && this.#names.has(index)) {
      this.#ended(number, index, item);
    } else if (index !== undefined && !this.#tools.has(index)) {
      if (item?.type === "mcp_call") this.#names.set(index, item.name);
      if (!/^response\.mcp_call\.(completed|failed)$/.test(type)) this.#model(number);
    }
  }

  #model(number) {
    if (!this.#turn) {
      this.#turns += 1;
      const from = this.#boundary;
      this.#turn = this.#begin({ name: `Turn ${this.#turns}`, kind: "turn", from, to: null, how: "" });
    }
    this.#turn.last = number;
  }

  #begin(bar) {
    this.bars.push(bar);
    return bar;
  }

  #ended(number, index, item) {
    const how = item.status === "completed" ? "" : "failed";
    const bar = this.#tools.get(index);
    if (bar) Object.assign(bar, { to: number, how });
    else if (item.status !== "incomplete") {
      // Begun by an attempt before this one, and ended by this one.
      const from = this.#boundary;
      this.#begin({ name: item.name, kind: "tool", from, to: number, how });
    }
    this.#tools.delete(index);
    this.#boundary = number;
  }

  #takenOver(number) {
    this.#close(number - 1, "lost");
    this.takeovers.push(number);
    this.#boundary = number;
  }

  #close(number, how) {
    for (const bar of this.#tools.values()) Object.assign(bar, { to: number, how: "lost" });
    this.#tools.clear();
    if (this.#turn) Object.assign(this.#turn, { to: number, how });
    this.#turn = null;
  }

  /** When the run ends, or how far it is: the last event that bars know of. */
  draw(box, { timeOf, now, replicas }) {
    const spans = this.bars.slice(-MOST_ROWS).map((bar) => spanOf(bar, timeOf, now));
    const known = spans.filter(Boolean);
    const end = Math.max(...known.map(({ to }) => to), 1);
    const lines = this.takeovers.map((number) => timeOf(number)).filter((ms) => ms !== undefined);
    const rows = known.map((span) => row(span, end, lines));
    box.replaceChildren(axis(end, lines, replicas), ...rows);
    box.hidden = known.length === 0;
  }
}

function spanOf(bar, timeOf, now) {
  const from = timeOf(bar.from);
  const to = bar.to !== null ? timeOf(bar.to) : (now ?? timeOf(bar.last ?? bar.from));
  if (from === undefined || to === undefined) return null;
  return { ...bar, from, to: Math.max(from, to) };
}

function row({ name, kind, from, to, how }, end, lines) {
  const bar = element("span", "bar");
  bar.dataset.kind = kind;
  bar.dataset.how = how;
  bar.style.left = percent(from, end);
  bar.style.width = percent(to - from, end);
  const words = { failed: " failed", lost: " not finished" }[how] ?? "";
  const took = element("span", "bar-took", `${lasting(to - from)}${words}`);
  if ((from + to) / 2 > end * 0.55) {
    took.style.right = percent(end - from, end);
  } else {
    took.style.left = percent(to, end);
  }
  const track = element("span", "track", "", ...lines.map((ms) => marker(ms, end)), bar, took);
  return element("li", "", "", element("span", "bar-name", name), track);
}

/** Where in time; where another attempt takes over, and who executes it. */
function axis(end, lines, replicas) {
  const ticks = [0, 0.25, 0.5, 0.75].map((part) => {
    const tick = element("span", "moment", lasting(end * part));
    tick.style.left = percent(part, 1);
    return tick;
  });
  const track = element("span", "track", "", ...ticks);
  const made = element("li", "axis", "", element("span", "bar-name"), track);
  if (!lines.length) return made;
  const starts = [0, ...lines];
  const attempts = starts.map((ms, place) => {
    const who = replicas[place] ? ` · ${replicas[place]}` : "";
    const label = element("span", "attempt", `attempt ${place + 1}${who}`);
    label.title = label.textContent;
    label.style.left = percent(ms, end);
    label.style.width = percent((starts[place + 1] ?? end) - ms, end);
    return label;
  });
  made.classList.add("several");
  track.append(...attempts);
  return made;
}

function marker(ms, end) {
  const made = element("span", "takeover");
  made.style.left = percent(ms, end);
  return made;
}

const percent = (part, whole) => `${Math.min(100, Math.max(0, (100 * part) / whole)).toFixed(3)}%`;
