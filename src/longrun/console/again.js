/* To ask again what a run was asked: its request, as far as it can be told. */

import { get, pathOf, post } from "./api.js";

const ECHOED = `instructions metadata temperature top_p presence_penalty frequency_penalty
  max_output_tokens max_tool_calls parallel_tool_calls reasoning text tools tool_choice truncation user
  safety_identifier previous_response_id`.split(/\s+/);

/** What is echoed where nothing was said. */
const DEFAULTS = {
  temperature: 1,
  top_p: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  parallel_tool_calls: true,
  text: { format: { type: "text" } },
  tool_choice: "auto",
  truncation: "disabled",
};

function isNothing(name, value) {
  if (value === null || value === undefined) return true;
  const text = JSON.stringify(value);
  return text === "[]" || text === "{}" || text === JSON.stringify(DEFAULTS[name]);
}

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

/** What a run was asked, as a request for another one. */
export async function requestOf(id, principal) {
  const [response, items] = await Promise.all([get(pathOf(id), principal), inputOf(id, principal)]);
  const body = { model: response.model, background: true };
  for (const name of ECHOED) if (!isNothing(name, response[name])) body[name] = response[name];
  const conversation = response.conversation?.id ?? response.conversation;
  if (conversation) body.conversation = conversation;
  body.input = items.map(({ id: _, status: __, ...item }) => item);
  return body;
}

/** Start the same again. Returns the new response. */
export async function runAgain(id, principal) {
  return post("v1/responses", await requestOf(id, principal), principal);
}
