/* The transcript of a run: its cards, in a box that stays at its end while the reader is there. */

import { Card, textOf } from "./cards.js";
import { element, perFrame } from "./dom.js";

const FRAME_CHARACTERS = 32768; // shown in one frame; the rest waits for the next

/** All cards of a run, in a box that stays at its end while the reader is there. */
export class Output {
  #cards = new Map(); // by output_index
  #calls = new Map(); // by call_id: the card of the call, where its output belongs
  #growing = new Set();
  #starts = 0;
  #atEnd = true;
  #top = 0;
  #whenShown = null;
  #show = perFrame(() => this.#showFrame());

  constructor(box) {
    this.box = box;
    this.asked = element("div", "asked");
    this.grow = (growing) => {
      this.#growing.add(growing);
      this.#show();
    };
    box.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.#show()).observe(box);
  }

  /** Begin anew: another run, or the same one up to another event. */
  clear({ keepQuestion = false } = {}) {
    if (!keepQuestion) this.asked.replaceChildren();
    this.#cards.clear();
    this.#calls.clear();
    this.#growing.clear();
    this.#starts = 0;
    this.#atEnd = true;
    this.#top = 0;
    this.#whenShown = null;
    this.box.replaceChildren(this.asked);
  }

  /** What the user asked. */
  question(text) {
    const body = element("div", "text", text);
    this.asked.append(element("article", "card question", "", element("div", "body", "", body)));
    this.#show();
  }

  /** What else the request brought: an item of its input. */
  given(item) {
    const card = new Card(item, this.grow);
    card.finish(item);
    this.asked.append(card.element);
  }

  /** The cards that ask for approval. */
  get approvals() {
    return [...this.#cards.values()].filter(({ item }) => item.type === "mcp_approval_request");
  }

  /** Say how long tools took, given when the events came (ms). */
  showTimes(timeOf) {
    for (const card of this.#cards.values()) card.showTime(timeOf);
  }

  /** A line between the cards: something happened to the run. */
  note(text) {
    this.#append(element("p", "note", text));
  }

  /** An error, in words. Returns its card's body. */
  error(title, message) {
    const head = element("div", "card-head", "", element("span", "title", title));
    const body = element("div", "body", "", element("div", "text prose", message));
    this.#append(element("article", "card error", "", head, body));
    return body;
  }

  /** Why a run failed, under the words that its client was told. */
  reason(body, { exception, message, step, attempt, traceback }) {
    const where = step ? `in ${step}, attempt ${attempt}` : `in attempt ${attempt}`;
    const lines = element("pre", "text code", traceback);
    lines.tabIndex = 0; // it scrolls
    lines.setAttribute("role", "region");
    lines.setAttribute("aria-label", "Traceback");
    body.append(
      element("div", "text prose reason", `${exception}: ${message}`),
      element("p", "where", where),
      element("details", "traceback", "", element("summary", "", "Traceback"), lines),
    );
    this.#show();
  }

  /** Take one event of the run. */
  take(event) {
    if (event.type === "response.in_progress") {
      // The second one is a takeover's (contract, "Streams").
      this.#starts += 1;
      if (this.#starts > 1) {
        this.note(`Another replica took over at event ${event.sequence_number}.`);
        this.#takenOver(event.response.output);
      }
    } else if (event.type === "response.output_item.added") {
      this.#open(event.output_index, event.item);
    } else if (event.type === "response.output_item.done") {
      const card = this.#open(event.output_index, event.item);
      card.ended = event.sequence_number;
      card.finish(event.item);
    } else if (event.type === "response.mcp_call.in_progress") {
      const card = this.#cards.get(event.output_index);
      if (card) card.began = event.sequence_number;
      card?.say("in_progress", "running…");
    } else if (event.type.endsWith(".delta") && typeof event.delta === "string") {
      this.#cards.get(event.output_index)?.delta(event);
    }
  }

  /** All items so far, each at its index; what is incomplete comes anew, as another item. */
  #takenOver(items) {
    for (const [index, item] of items.entries()) {
      if (item.status === "incomplete") this.#cards.get(index)?.withdraw();
    }
  }

  #open(index, item) {
    let card = this.#cards.get(index);
    if (card) return card;
    card = new Card(item, this.grow);
    this.#cards.set(index, card);
    const call = item.type === "function_call_output" && this.#calls.get(item.call_id);
    if (call) call.attach(card);
    else this.#append(card.element);
    if (item.type === "function_call") this.#calls.set(item.call_id, card);
    return card;
  }

  #append(child) {
    this.box.append(child);
    this.#show();
  }

  #showFrame() {
    let budget = document.hidden ? Infinity : FRAME_CHARACTERS;
    for (const growing of this.#growing) {
      if (budget <= 0) break;
      budget -= growing.show(budget);
      if (!growing.waiting) this.#growing.delete(growing);
    }
    if (this.#atEnd) this.box.scrollTop = this.box.scrollHeight;
    if (this.#growing.size > 0) {
      this.#show();
    } else {
      this.#whenShown?.();
      this.#whenShown = null;
    }
  }

  /** Only a reader scrolls up. The end itself may have moved on by the time this is called. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    if (scrollHeight - scrollTop - clientHeight < 40) this.#atEnd = true;
    else if (scrollTop < this.#top) this.#atEnd = false;
    this.#top = scrollTop;
  }

  /** Call back when everything that was taken is shown. */
  whenShown(callback) {
    this.#whenShown = callback;
    this.#show();
  }

  /** The run is over: what is not in its output does not stay, and a call that is still without
      output is one of the client's own tools. */
  end(response) {
    const stored = new Set(response.output.map((item) => item.id));
    for (const card of this.#cards.values()) {
      if (stored.has(card.item.id)) continue;
      // Of a run that failed or was cancelled, it is all there is to see.
      if (response.status === "completed") card.withdraw();
      else card.say("incomplete");
    }
    for (const card of this.#calls.values()) {
      const words = response.status === "completed" ? "for the client to answer" : "";
      if (card.unanswered) card.say("completed", words);
    }
  }

  /** Whether what is shown, but for what is marked as not finished, is what is stored. */
  matches(response) {
    const stored = new Map(response.output.map((item) => [item.id, item]));
    for (const card of this.#cards.values()) {
      const item = stored.get(card.item.id);
      stored.delete(card.item.id);
      if (!item && card.element.dataset.status !== "incomplete") return false;
      if (item?.type === "message" && card.text !== textOf(item)) return false;
    }
    return stored.size === 0;
  }
}
