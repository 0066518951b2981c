/* Requests to the API; whatever goes wrong becomes a Problem, which says it in words. */

/** An error to be shown. `status`: of HTTP; 0 when there was no answer at all. */
export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may succeed later: nobody answered, or not now. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const KEY = "longrun.key";

/** The key that requests are made with: kept in this tab, and nowhere else. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** Called when the server does not take the key, or asks for one (`key`), and when it answers
    again (`there`) or no longer (`away`). */
export const wanted = new EventTarget();

let isThere = true;

/** Where the API is. Relative to the page, so that it also works under a prefix. */
export const BASE = "v1/";

/** The path of a response. */
export const pathOf = (id, query = "") => `${BASE}responses/${encodeURIComponent(id)}${query}`;

/** The JSON at a path. `principal`: for whom the caller acts; `*` for everybody. */
export const get = (path, principal) => ask(path, {}, principal);

export const remove = (path, principal) => ask(path, { method: "DELETE" }, principal);

export const post = (path, body, principal) =>
  ask(
    path,
    {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    },
    principal,
  );

/** What a URL needs so that the browser may open it by itself, without the key: `token=…`. */
export async function tokenFor(id) {
  if (!key.get()) return "";
  const { token } = await post(pathOf(id, "/stream_token"), {});
  return `token=${encodeURIComponent(token)}`;
}

/** The JSON that a request is answered with.

    Throws a Problem. */
export async function ask(path, options = {}, principal = undefined) {
  const bearer = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  const acts = principal === undefined ? {} : { "longrun-principal": principal };
  const headers = { ...options.headers, ...bearer, ...acts };
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers });
  } catch {
    turn(false);
    throw new Problem("The server is not responding.");
  }
  const text = await answer.text().catch(() => "");
  const body = parsed(text);
  turn(answer.status < 500);
  if (answer.status === 401) wanted.dispatchEvent(new Event("key"));
  if (!answer.ok) {
    const said = body?.error?.message;
    throw new Problem(said ?? `The server responded with status ${answer.status}.`, answer.status);
  }
  if (body === undefined) throw new Problem("The server's response is not JSON.", answer.status);
  return body;
}

function turn(there) {
  if (there === isThere) return;
  isThere = there;
  wanted.dispatchEvent(new Event(there ? "there" : "away"));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
