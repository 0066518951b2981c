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

/** Called when the server does not take the key, or asks for one. */
export const wanted = new EventTarget();

/** Paths are relative to the page, so that it also works under a prefix. */
export const pathOf = (id, query = "") => `v1/responses/${encodeURIComponent(id)}${query}`;

export const get = (path) => ask(path, {});

export const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

/** What a URL needs so that the browser may open it by itself, without the key: `&token=…`. */
export async function tokenFor(id) {
  if (!key.get()) return "";
  const { token } = await post(pathOf(id, "/stream_token"), {});
  return `&token=${encodeURIComponent(token)}`;
}

async function ask(path, options) {
  const bearer = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  const headers = { ...options.headers, ...bearer };
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers });
  } catch {
    throw new Problem("The server is not responding.");
  }
  const text = await answer.text().catch(() => "");
  const body = parsed(text);
  if (answer.status === 401) wanted.dispatchEvent(new Event("key"));
  if (!answer.ok) {
    const said = body?.error?.message;
    throw new Problem(said ?? `The server responded with status ${answer.status}.`, answer.status);
  }
  if (body === undefined) throw new Problem("The server's response is not JSON.", answer.status);
  return body;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
