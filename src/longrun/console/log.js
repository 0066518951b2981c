/* The log of a run: each event with its number, its time and its JSON, and a slider that shows the
   run as it was at any of them. Only rows that can be seen are in the page. */

import { $, count, element, lasting, perFrame, setText } from "./dom.js";

const ROW = 28; // px, as in run.css
const BEYOND = 10; // rows above and below what can be seen

export class Log {
  #texts = []; // the JSON of each event, by its number
  #types = [];
  #picked = null;
  #box = $("log");
  #rows = $("log-rows");
  #slider = $("at");
  #draw = perFrame(() => this.#drawNow());
  timeOf = () => undefined;

  /** `onReplay(number)`: show the run as it was after this event; null: as it is. */
  constructor(onReplay) {
    this.onReplay = onReplay;
    this.#box.addEventListener("scroll", this.#draw);
    $("log-box").addEventListener("toggle", this.#draw);
    this.#slider.addEventListener("input", () => this.#slid());
    $("to-now").addEventListener("click", () => this.#show(null));
    new ResizeObserver(this.#draw).observe(this.#box);
    this.replayed = null; // the event up to which the run is shown; null: all of it
  }

  clear() {
    this.#texts = [];
    this.#types = [];
    this.#pick(null);
    this.replayed = null;
    this.#rows.replaceChildren();
    this.#draw();
  }

  add(event, text) {
    this.#texts[event.sequence_number] = text;
    this.#types[event.sequence_number] = event.type;
    this.#draw();
  }

  /** The events up to a number, in order. */
  *upTo(number) {
    for (let at = 0; at <= number && at < this.#texts.length; at += 1) {
      if (this.#texts[at]) yield JSON.parse(this.#texts[at]);
    }
  }

  get last() {
    return this.#texts.length - 1;
  }

  redraw() {
    this.#draw();
  }

  #slid() {
    const number = Number(this.#slider.value);
    this.#show(number >= this.last ? null : number);
  }

  #show(number) {
    this.replayed = number;
    if (number !== null) {
      this.#pick(number);
      const top = number * ROW;
      const { scrollTop, clientHeight } = this.#box;
      if (top < scrollTop || top > scrollTop + clientHeight - ROW) {
        this.#box.scrollTop = top - clientHeight / 2;
      }
    }
    this.onReplay(number);
    this.#draw();
  }

  #pick(number) {
    this.#picked = number;
    const text = number === null ? undefined : this.#texts[number];
    $("event").hidden = text === undefined;
    if (text !== undefined) setText("event", JSON.stringify(JSON.parse(text), null, 2));
    this.#draw();
  }

  #drawNow() {
    const { last, replayed } = this;
    setText("log-count", last < 0 ? "" : `${count(last + 1)} events`);
    this.#slider.max = String(Math.max(0, last));
    this.#slider.disabled = last < 1;
    if (replayed === null) this.#slider.value = String(Math.max(0, last));
    else this.#slider.value = String(replayed);
    const words = replayed === null ? "now" : `after event ${count(replayed)}`;
    this.#slider.setAttribute("aria-valuetext", words);
    setText("at-words", words);
    $("to-now").hidden = replayed === null;
    if (!$("log-box").open) return;
    this.#rows.style.height = `${(last + 1) * ROW}px`;
    const first = Math.max(0, Math.floor(this.#box.scrollTop / ROW) - BEYOND);
    const end = Math.min(last, first + Math.ceil(this.#box.clientHeight / ROW) + 2 * BEYOND);
    const shown = [];
    for (let number = first; number <= end; number += 1) shown.push(this.#row(number));
    const focused = this.#rows.contains(document.activeElement)
      ? document.activeElement.dataset.number
      : null;
    this.#rows.replaceChildren(...shown);
    if (focused) this.#rows.querySelector(`[data-number="${focused}"]`)?.focus();
  }

  #row(number) {
    const ms = this.timeOf(number);
    const made = element(
      "button",
      "log-row",
      "",
      element("span", "n", String(number)),
      element("span", "t", ms === undefined ? "" : `+${lasting(ms)}`),
      element("span", "k", (this.#types[number] ?? "").replace(/^response\./, "")),
      element("span", "j", essence(this.#texts[number] ?? "")),
    );
    made.type = "button";
    made.dataset.number = String(number);
    made.style.top = `${number * ROW}px`;
    if (number === this.#picked) made.setAttribute("aria-current", "true");
    made.addEventListener("click", () => this.#pick(number === this.#picked ? null : number));
    return made;
  }
}

/** What an event says besides its type and number, in a line. */
const essence = (text) => text.slice(0, 600).replace(/^\{"type":"[^"]*","sequence_number":\d+,?/, "").slice(0, 160);
