/* Follows one response to its end, whatever happens to connections: for pages of your own, too.

     import { Follower } from "/console/longrun.js";
     new Follower(id, { key: "sk-…", onEvent: (event) => …, onChange: () => … });

   The browser resumes by itself: it reconnects and sends the last id that it got. What is left to
   do here: listen to each type of event by its name, count, cut on demand, close at the end, and
   find out why when the browser gives up. This module stands by itself.

   Over HTTP/1.1 a browser opens six connections to a server, for all of its tabs together. So a
   few followers hold one each, and those beyond them take turns with one more. */

/** Every event type of the Responses API but `error`, which longrun never sends and EventSource
    uses for itself. Events have names, and EventSource hands over only those one asks for. */
export const EVENT_TYPES = `
  response.audio.delta response.audio.done
  response.audio.transcript.delta response.audio.transcript.done
  response.code_interpreter_call.completed response.code_interpreter_call.in_progress
  response.code_interpreter_call.interpreting
  response.code_interpreter_call_code.delta response.code_interpreter_call_code.done
  response.compaction.compacting
  response.completed
  response.content_part.added response.content_part.done
  response.created
  response.custom_tool_call_input.delta response.custom_tool_call_input.done
  response.failed
  response.file_search_call.completed response.file_search_call.in_progress
  response.file_search_call.searching
  response.function_call_arguments.delta response.function_call_arguments.done
  response.image_generation_call.completed response.image_generation_call.generating
  response.image_generation_call.in_progress response.image_generation_call.partial_image
  response.in_progress
  response.incomplete
  response.mcp_call.completed response.mcp_call.failed response.mcp_call.in_progress
  response.mcp_call_arguments.delta response.mcp_call_arguments.done
  response.mcp_list_tools.completed response.mcp_list_tools.failed
  response.mcp_list_tools.in_progress
  response.output_item.added response.output_item.done
  response.output_text.annotation.added
  response.output_text.delta response.output_text.done
  response.queued
  response.reasoning_summary_part.added response.reasoning_summary_part.done
  response.reasoning_summary_text.delta response.reasoning_summary_text.done
  response.reasoning_text.delta response.reasoning_text.done
  response.refusal.delta response.refusal.done
  response.shell_call_command.added response.shell_call_command.delta
  response.shell_call_command.done
  response.shell_call_output_content.delta response.shell_call_output_content.done
  response.web_search_call.completed response.web_search_call.in_progress
  response.web_search_call.searching
`.trim().split(/\s+/);

export const TERMINAL = new Set(["response.completed", "response.failed", "response.incomplete"]);

const CUT_PAUSE = 1500; // ms; long enough to see that events pile up behind a cut

const RETRY = { first: 1000, longest: 10000 }; // ms, when the browser has given up

const STREAMS = 4; // followers of all tabs that hold a connection; the others take turns
const TURN = 1000; // ms that a turn lasts,
const BETWEEN_TURNS = 300; // and until the next one is asked for

/** Follows a response from its start to its terminal event.

    Calls `onEvent(event, data)` for each event, once and in order, with the text that it came as,
    and `onChange()` when `state` or a figure is another. States: connecting, live, resumed,
    reconnecting, cut, done, lost.

    Options: `base`, where the API is (default `/v1/`); `key`, an API key or a token, if the server
    asks for one; `after`, the number of the last event that there is already; `catchUp:
    "snapshot"`, to begin with one `response.in_progress` that has the items so far, in place of
    all events until then; `request(path, options)`, in place of fetch, which gives the JSON of an answer and throws an error that has
    `passing` if a further try may succeed. */
export class Follower {
  state = "connecting";
  events = 0;
  cursor = -1; // the sequence number of the last event that arrived
  missing = 0;
  repeated = 0;
  resumedAt = 0;
  problem = null; // in state lost
  connections = []; // {first, last, end}: the events of each, and how it ended

  #source = null;
  #opening = null; // the latest of the connections that are being made
  #timer = 0;
  #turnEnds = 0;
  #release = () => {};
  #wait = RETRY.first;

  constructor(
    id,
    { onEvent, onChange = () => {}, base = "/v1/", key = "", after = -1, catchUp = "", request },
  ) {
    this.id = id;
    this.catchUp = catchUp;
    this.path = `${base}responses/${encodeURIComponent(id)}`;
    this.cursor = after;
    this.onEvent = onEvent;
    this.onChange = onChange;
    this.key = typeof key === "function" ? key : () => key;
    this.request = request ?? ((path, options) => requested(path, options, this.key()));
    this.#open();
  }

  get over() {
    return this.state === "done" || this.state === "lost";
  }

  /** Close the connection as if a proxy had, and come back at the cursor a moment later. */
  cut() {
    if (this.over) return;
    this.#close("cut");
    this.#turn("cut");
    this.#timer = setTimeout(() => this.#open(), CUT_PAUSE);
  }

  /** Leave for good: another run is shown. */
  stop() {
    this.#close("left");
    this.onEvent = this.onChange = () => {};
  }

  async #open() {
    const opening = (this.#opening = Symbol("opening"));
    const [release, turn] = await connection();
    if (opening !== this.#opening) return release(); // closed meanwhile
    this.#release = release;
    let token = "";
    try {
      token = await this.#token();
    } catch (problem) {
      if (opening === this.#opening) this.#failed(problem);
      return;
    }
    if (opening !== this.#opening) return;
    const source = new EventSource(`${this.path}?stream=true${this.#start()}${token}`);
    this.#source = source;
    source.onopen = () => this.#opened();
    source.onerror = () => this.#interrupted(source);
    // Without a name comes only `[DONE]`; the terminal event has closed the source before it,
    // unless this is a finished run that was asked for what comes after its end.
    source.onmessage = () => this.#end();
    const arrived = (message) => this.#arrived(message);
    for (const type of EVENT_TYPES) source.addEventListener(type, arrived);
    if (turn) this.#turnEnds = setTimeout(() => this.#endTurn(), TURN);
  }

  /** What the URL says of where the stream is to begin. */
  #start() {
    if (this.cursor >= 0) return `&starting_after=${this.cursor}`;
    return this.catchUp && `&catch_up=${this.catchUp}`;
  }

  /** What the URL needs so that the browser may open it by itself, without the key. */
  async #token() {
    if (!this.key()) return "";
    const { token } = await this.request(`${this.path}/stream_token`, { method: "POST" });
    return `&token=${encodeURIComponent(token)}`;
  }

  #opened() {
    this.#wait = RETRY.first;
    const last = this.connections.at(-1);
    if (last?.end === "turn") {
      last.end = null; // its next turn: no other connection to speak of
      return;
    }
    this.resumedAt = this.cursor + 1;
    this.connections.push({ first: this.resumedAt, last: this.cursor, end: null });
    this.#turn(last ? "resumed" : "live");
  }

  #arrived(message) {
    const event = JSON.parse(message.data);
    const number = event.sequence_number;
    if (number <= this.cursor) {
      this.repeated += 1;
    } else {
      if (this.cursor >= 0 || !this.catchUp) this.missing += number - this.cursor - 1;
      this.cursor = number;
      this.events += 1;
      this.connections.at(-1).last = number;
      this.onEvent(event, message.data);
    }
    if (TERMINAL.has(event.type)) this.#end();
    this.onChange();
  }

  #end() {
    this.#close("end");
    this.#turn("done");
  }

  #endTurn() {
    this.#close("turn");
    this.#timer = setTimeout(() => this.#open(), BETWEEN_TURNS);
  }

  #interrupted(source) {
    this.#ended("broken");
    this.#turn("reconnecting");
    // CONNECTING: the browser tries again by itself. CLOSED: it got an answer other than a
    // stream, and gave up; a 503 may pass, a 404 will not.
    if (source.readyState === EventSource.CLOSED) this.#askWhy(source);
  }

  async #askWhy(source) {
    let why = null;
    try {
      await this.request(this.path, {});
    } catch (problem) {
      why = problem;
    }
    if (source === this.#source) this.#failed(why);
  }

  /** Try again later, unless the problem will not pass. */
  #failed(problem) {
    this.#close("broken");
    if (problem && !problem.passing) {
      this.#close("lost");
      this.problem = problem.message;
      this.#turn("lost");
      return;
    }
    this.#timer = setTimeout(() => this.#open(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, RETRY.longest);
  }

  #close(how) {
    clearTimeout(this.#timer);
    clearTimeout(this.#turnEnds);
    this.#opening = null;
    this.#source?.close();
    this.#source = null;
    this.#release();
    this.#release = () => {};
    this.#ended(how);
  }

  #ended(how) {
    const connection = this.connections.at(-1);
    if (connection) connection.end ??= how;
  }

  #turn(state) {
    this.state = state;
    this.onChange();
  }
}

/** A connection that may be opened: how to give it back, and whether it is only for a turn. */
async function connection() {
  if (!navigator.locks) return [() => {}, false]; // only on https and localhost
  for (let n = 0; n < STREAMS; n += 1) {
    const release = await held(`longrun stream ${n}`, { ifAvailable: true });
    if (release) return [release, false];
  }
  return [await held("longrun turn", {}), true];
}

/** A lock among all tabs: how to release it; null if another has it. */
function held(name, options) {
  return new Promise((got) => {
    navigator.locks.request(name, options, (lock) => {
      if (!lock) return got(null);
      return new Promise((release) => got(release));
    });
  });
}

async function requested(path, options, key) {
  const bearer = key ? { authorization: `Bearer ${key}` } : {};
  const passing = (message, is) => Object.assign(new Error(message), { passing: is });
  const answer = await fetch(path, { ...options, headers: bearer }).catch(() => {
    throw passing("The server is not responding.", true);
  });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const said = body.error?.message ?? `The server responded with status ${answer.status}.`;
  throw passing(said, answer.status === 429 || answer.status >= 500);
}
