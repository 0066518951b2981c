/* The items of a run as cards that grow.

   Models and tools are strangers: text goes in as text, never as HTML. Thousands of deltas a
   second are gathered in strings and shown once a frame. */

import { element, lasting } from "./dom.js";
import { Markdown } from "./markdown.js";

const BLOCK_CHARACTERS = 2000; // after that the next line begins a new block (see Growing),
const LONGEST_BLOCK = 8000; // and after that the next word

/** Text that grows at its end. A browser lays out a whole block for each letter that is added
    to it, so a long text is made of many. Where it is Markdown, a block is shown as what it means
    once it has ended: at an empty line, at the latest. */
class Growing {
  #pending = [];
  #block = null;
  #over = false;

  constructor(parent, markdown = null) {
    this.parent = parent;
    this.markdown = markdown;
    this.length = 0;
  }

  add(text) {
    this.#pending.push(text);
    this.length += text.length;
  }

  /** Show at most `budget` characters of what waits. Returns how many. */
  show(budget) {
    const waiting = this.#pending.join("");
    const now = waiting.slice(0, budget);
    this.#pending = now.length < waiting.length ? [waiting.slice(budget)] : [];
    for (let at = 0; at < now.length; ) at = this.#showPart(now, at);
    if (this.#over && !this.waiting) this.#endBlock();
    return now.length;
  }

  #showPart(text, from) {
    if (!this.#block) {
      this.#block = document.createTextNode("");
      this.parent.append(element("div", "block", "", this.#block));
    }
    const to = this.#endOfBlock(text, from);
    this.#block.appendData(text.slice(from, to || text.length));
    if (to) this.#endBlock();
    return to || text.length;
  }

  /** Where in the text the block ends; 0 if it goes on after it. */
  #endOfBlock(text, from) {
    const at = (limit) => from + Math.max(0, limit - this.#block.length);
    if (this.markdown) {
      if (this.#block.data.endsWith("\n") && text[from] === "\n") return from + 1;
      const gap = text.indexOf("\n\n", from) + 2;
      if (gap > 1 && gap <= at(BLOCK_CHARACTERS)) return gap;
    }
    const line = text.indexOf("\n", at(BLOCK_CHARACTERS)) + 1;
    if (line && line <= at(LONGEST_BLOCK)) return line;
    return text.indexOf(" ", at(LONGEST_BLOCK)) + 1 || line;
  }

  #endBlock() {
    if (this.#block && this.markdown) {
      const parent = this.#block.parentElement;
      parent.classList.add("md");
      this.markdown.render(this.#block.data, parent);
    }
    this.#block = null;
  }

  get waiting() {
    return this.#pending.length > 0;
  }

  /** Nothing more comes. */
  finish() {
    this.#over = true;
  }

  /** Forget what waits. */
  drop() {
    this.#pending = [];
    this.#block = null;
  }
}

const TITLES = {
  message: "Message",
  reasoning: "Reasoning",
  function_call: "Tool call",
  mcp_call: "Tool call",
  function_call_output: "Tool output",
  mcp_approval_request: "Asks for approval",
  mcp_approval_response: "Answer",
};

const STATES = { in_progress: "…", completed: "", incomplete: "not finished" };

/** Calls of function tools: the client's to execute, and those that the server executes. */
const CALLS = new Set(["function_call", "mcp_call"]);

/** What the deltas of an item fill, by the middle of the event's name. */
const ARGUMENTS = /arguments|input|code|command/;

/** One output item. `began` and `ended`: the numbers of the events at which its tool did. */
export class Card {
  began = null;
  ended = null;
  #parts = new Map();

  constructor(item, grow) {
    this.item = item;
    this.grow = grow;
    this.state = element("span", "state");
    this.took = element("span", "took");
    this.body = element("div", "body");
    const title = element("span", "title", titleOf(item));
    const name = element("span", "name", item.name ?? "");
    const head = element("div", "card-head", "", title, name, this.state, this.took);
    this.element = element("article", "card", "", head, this.body);
    this.element.dataset.type = item.type;
    this.say(item.status ?? "in_progress");
  }

  say(status, words = STATES[status] ?? status) {
    this.element.dataset.status = status;
    this.state.textContent = words;
  }

  /** Text for one of the item's parts; each has an element of its own, in order of appearance. */
  add(part, text, className) {
    let growing = this.#parts.get(part);
    if (!growing) {
      const parent = element("div", `text ${className}`);
      this.body.append(parent);
      growing = new Growing(parent, className === "prose" ? new Markdown() : null);
      this.#parts.set(part, growing);
    }
    growing.add(text);
    this.grow(growing);
  }

  delta(event) {
    const kind = event.type.slice("response.".length, -".delta".length);
    const place = event.content_index ?? event.summary_index ?? 0;
    this.add(`${kind} ${place}`, event.delta, ARGUMENTS.test(kind) ? "code" : "prose");
  }

  /** The item as it is at its end: what was not streamed is shown now. */
  finish(item) {
    this.item = item;
    this.say(item.status ?? "completed");
    if (this.unanswered) this.say("completed", "running…");
    if (this.#parts.size === 0) {
      for (const [part, text, className] of wholeParts(item)) this.add(part, text, className);
    }
    const outcome = item.type === "mcp_call" ? outcomeOf(item) : "";
    if (outcome) this.add("outcome", outcome, "code result");
    if (item.type === "mcp_call") this.element.classList.toggle("wrong", item.status === "failed");
    for (const growing of this.#parts.values()) {
      growing.finish();
      this.grow(growing);
    }
  }

  /** Say how long its tool took, given when the events came (ms), as far as that is known. */
  showTime(timeOf) {
    if (this.began === null || this.ended === null) return;
    const [from, to] = [timeOf(this.began), timeOf(this.ended)];
    if (from !== undefined && to !== undefined) this.took.textContent = lasting(to - from);
  }

  /** The item does not stay: its text is taken away. */
  withdraw() {
    for (const growing of this.#parts.values()) growing.drop();
    this.#parts.clear();
    this.body.replaceChildren();
    this.item = { ...this.item, status: "incomplete" };
    this.say("incomplete");
  }

  /** Another item that belongs to this one: a call's output. */
  attach(card) {
    this.answer = card;
    this.element.append(card.element);
    this.say("completed");
  }

  /** A finished call without an output, as yet. */
  get unanswered() {
    return this.item.type === "function_call" && this.item.status === "completed" && !this.answer;
  }

  get text() {
    return this.body.textContent;
  }
}

const titleOf = (item) =>
  item.type === "mcp_call" && /^transfer_to_/.test(item.name ?? "")
    ? "Handoff"
    : (TITLES[item.type] ?? item.type.replaceAll("_", " "));

/** What an item shows when none of it was streamed. */
function wholeParts(item) {
  if (item.type === "message") return [["text 0", textOf(item), "prose"]];
  if (CALLS.has(item.type)) return [["arguments 0", item.arguments, "code"]];
  if (item.type === "function_call_output") return [["output 0", outputOf(item), "code result"]];
  if (item.type === "reasoning") {
    const texts = [...(item.summary ?? []), ...(item.content ?? [])].map((part) => part.text);
    return texts.map((text, place) => [`reasoning ${place}`, text ?? "", "prose"]);
  }
  if (item.type === "mcp_approval_request") return [["arguments 0", item.arguments, "code"]];
  const { id, type, status, ...rest } = item;
  return [["item 0", JSON.stringify(rest, null, 2), "code"]];
}

/** What the tool of a call that the server executes gave, or what went wrong with it. */
function outcomeOf(item) {
  if (typeof item.error === "string") return item.error;
  const said = item.error?.content;
  if (Array.isArray(said)) return said.map((part) => part.text ?? "").join("\n");
  return item.output ?? item.error?.message ?? "";
}

export const textOf = (item) =>
  (item.content ?? []).map((part) => part.text ?? part.refusal ?? "").join("");

const outputOf = (item) =>
  typeof item.output === "string" ? item.output : JSON.stringify(item.output, null, 2);
