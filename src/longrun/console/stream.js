/* Follows one run with EventSource.

   The browser resumes by itself: it reconnects and sends the last id that it got. What is left to
   do here: listen to each type of event by its name, count, cut on demand, close at the end, and
   find out why when the browser gives up. */

import { get, pathOf, tokenFor } from "./api.js";

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

const TERMINAL = new Set(["response.completed", "response.failed", "response.incomplete"]);

const CUT_PAUSE = 1500; // ms; long enough to see that events pile up behind a cut

const RETRY = { first: 1000, longest: 10000 }; // ms, when the browser has given up

/** Follows a run from its start to its terminal event.

    Calls `onEvent(event)` for each event, once and in order, and `onChange()` when `state` or a
    figure is another. States: connecting, live, resumed, reconnecting, cut, done, lost. */
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
  #wait = RETRY.first;

  constructor(id, { onEvent, onChange }) {
    this.id = id;
    this.onEvent = onEvent;
    this.onChange = onChange;
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
    let token;
    try {
      token = await tokenFor(this.id);
    } catch (problem) {
      if (opening === this.#opening) this.#failed(problem);
      return;
    }
    if (opening !== this.#opening) return; // closed meanwhile
    const after = this.cursor < 0 ? "" : `&starting_after=${this.cursor}`;
    const source = new EventSource(pathOf(this.id, `?stream=true${after}${token}`));
    this.#source = source;
    source.onopen = () => this.#opened();
    source.onerror = () => this.#interrupted(source);
    // Without a name comes only `[DONE]`; the terminal event has closed the source before it,
    // unless this is a finished run that was asked for what comes after its end.
    source.onmessage = () => this.#end();
    const arrived = (message) => this.#arrived(message);
    for (const type of EVENT_TYPES) source.addEventListener(type, arrived);
  }

  #opened() {
    this.#wait = RETRY.first;
    const first = this.connections.length === 0;
    this.resumedAt = this.cursor + 1;
    this.connections.push({ first: this.resumedAt, last: this.cursor, end: null });
    this.#turn(first ? "live" : "resumed");
  }

  #arrived(message) {
    const event = JSON.parse(message.data);
    const number = event.sequence_number;
    if (number <= this.cursor) {
      this.repeated += 1;
    } else {
      this.missing += number - this.cursor - 1;
      this.cursor = number;
      this.events += 1;
      this.connections.at(-1).last = number;
      this.onEvent(event);
    }
    if (TERMINAL.has(event.type)) this.#end();
    this.onChange();
  }

  #end() {
    this.#close("end");
    this.#turn("done");
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
      await get(pathOf(this.id));
    } catch (problem) {
      why = problem;
    }
    if (source === this.#source) this.#failed(why);
  }

  /** Try again later, unless the problem will not pass. */
  #failed(problem) {
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
    this.#opening = null;
    this.#source?.close();
    this.#source = null;
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
