/* Shows the items of a run as cards that grow.

   Models and tools are strangers: text goes in as text, never as HTML. Thousands of deltas a
   second are gathered in strings and shown once a frame. */

const FRAME_CHARACTERS = 32768; // shown in one frame; the rest waits for the next
const BLOCK_CHARACTERS = 2000; // after that the next line begins a new block (see Growing),
const LONGEST_BLOCK = 8000; // and after that the next word

/** A function that calls `update` at most once a frame, however often it is called itself. */
export function perFrame(update) {
  let frame = 0;
  let timer = 0;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = timer = 0;
    update();
  };
  return () => {
    if (timer) return;
    frame = requestAnimationFrame(run);
    timer = setTimeout(run, 500); // a hidden page has no frames
  };
}

/** An element with a class, text and children. */
export function element(name, className = "", text = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** Text that grows at its end. A browser lays out a whole block for each letter that is added
    to it, so a long text is made of many. */
class Growing {
  #pending = [];
  #block = null;

  constructor(parent) {
    this.parent = parent;
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
    return now.length;
  }

  #showPart(text, from) {
    if (!this.#block) {
      this.#block = document.createTextNode("");
      this.parent.append(element("div", "block", "", this.#block));
    }
    const to = this.#endOfBlock(text, from);
    this.#block.appendData(text.slice(from, to || text.length));
    if (to) this.#block = null;
    return to || text.length;
  }

  /** Where in the text the block ends; 0 if it goes on after it. */
  #endOfBlock(text, from) {
    const at = (limit) => from + Math.max(0, limit - this.#block.length);
    const line = text.indexOf("\n", at(BLOCK_CHARACTERS)) + 1;
    if (line && line <= at(LONGEST_BLOCK)) return line;
    return text.indexOf(" ", at(LONGEST_BLOCK)) + 1 || line;
  }

  get waiting() {
    return this.#pending.length > 0;
  }

  /** Forget what waits. */
  drop() {
    this.#pending = [];
  }
}

const TITLES = {
  message: "Message",
  reasoning: "Reasoning",
  function_call: "Tool call",
  mcp_call: "Tool call",
  function_call_output: "Tool output",
};

const STATES = { in_progress: "…", completed: "", incomplete: "not finished" };

/** Calls of function tools: the client's to execute, and those that the server executes. */
const CALLS = new Set(["function_call", "mcp_call"]);

/** What the deltas of an item fill, by the middle of the event's name. */
const ARGUMENTS = /arguments|input|code|command/;

/** One output item. */
class Card {
  #parts = new Map();

  constructor(item, grow) {
    this.item = item;
    this.grow = grow;
    this.state = element("span", "state");
    this.body = element("div", "body");
    const title = element("span", "title", TITLES[item.type] ?? item.type.replaceAll("_", " "));
    const name = element("span", "name", item.name ?? "");
    const head = element("div", "card-head", "", title, name, this.state);
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
      growing = new Growing(parent);
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

/** What an item shows when none of it was streamed. */
function wholeParts(item) {
  if (item.type === "message") return [["text 0", textOf(item), "prose"]];
  if (CALLS.has(item.type)) return [["arguments 0", item.arguments, "code"]];
  if (item.type === "function_call_output") return [["output 0", outputOf(item), "code result"]];
  if (item.type === "reasoning") {
    const texts = [...(item.summary ?? []), ...(item.content ?? [])].map((part) => part.text);
    return texts.map((text, place) => [`reasoning ${place}`, text ?? "", "prose"]);
  }
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

const textOf = (item) =>
  (item.content ?? []).map((part) => part.text ?? part.refusal ?? "").join("");

const outputOf = (item) =>
  typeof item.output === "string" ? item.output : JSON.stringify(item.output, null, 2);

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
    this.grow = (growing) => {
      this.#growing.add(growing);
      this.#show();
    };
    box.addEventListener("scroll", () => this.#scrolled());
  }

  clear() {
    this.#cards.clear();
    this.#calls.clear();
    this.#growing.clear();
    this.#starts = 0;
    this.#atEnd = true;
    this.#top = 0;
    this.#whenShown = null;
    this.box.replaceChildren();
  }

  /** What the user asked. */
  question(text) {
    const body = element("div", "text prose", text);
    this.#append(element("article", "card question", "", element("div", "body", "", body)));
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
      this.#open(event.output_index, event.item).finish(event.item);
    } else if (event.type === "response.mcp_call.in_progress") {
      this.#cards.get(event.output_index)?.say("in_progress", "running…");
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
