/* To ask again what a run was asked. */

import { get, pathOf, post } from "./api.js";

/** All that a run's own request brought, oldest first. */
export async function inputOf(id, principal) {
  const items = [];
  for (let after = ""; ; ) {
    const page = await get(pathOf(id, `/input_items?order=asc&limit=100${after}`), principal);
    items.push(...page.data);
    if (!page.has_more) return items;
    after = `&after=${encodeURIComponent(page.last_id)}`;
  }
}

/** The text of a message; empty if it has none. */
export function textIn(item) {
  if (typeof item.content === "string") return item.content;
  if (!Array.isArray(item.content)) return "";
  return item.content.map((part) => part.text ?? "").join("");
}

/** Start the same again: the request as it is stored. Returns the new response. */
export async function runAgain(id, principal) {
  const body = { background: true, longrun: { fork: { response_id: id, step: 0 } } };
  return post("v1/responses", body, principal);
}
