/* Approvals: what a run asks is answered from its page, and another response goes on with it. */

import { get, post, Problem } from "./api.js";
import { button, element } from "./dom.js";

/** Give the cards that ask for approval buttons, if they still wait for an answer. */
export async function offerAnswers(cards, run, output) {
  if (!cards.length) return;
  let entry;
  try {
    entry = await get(`v1/runs/${run.id}`);
  } catch (problem) {
    if (problem instanceof Problem) return;
    throw problem;
  }
  const answers = new Map();
  for (const card of cards) {
    if (!entry.waits) card.say("completed", "answered");
    else card.element.append(choice(card, answers, () => sent(cards, answers, entry, output)));
  }
}

function choice(card, answers, decided) {
  const reason = element("input", "reason");
  reason.placeholder = "Reason, if you refuse";
  reason.setAttribute("aria-label", `Reason to refuse ${card.item.name}`);
  const decide = (approve) => {
    answers.set(card.item.id, { approve, ...(approve || !reason.value ? {} : { reason: reason.value }) });
    card.say("completed", approve ? "approved" : "refused");
    decided();
  };
  return element(
    "div",
    "choice",
    "",
    button("Approve", "primary", () => decide(true)),
    button("Refuse", "", () => decide(false)),
    reason,
  );
}

/** Once each is answered, a response goes on with the answers, and is shown. */
async function sent(cards, answers, entry, output) {
  if (answers.size < cards.length) return;
  const input = [...answers].map(([id, answer]) => ({
    type: "mcp_approval_response",
    approval_request_id: id,
    ...answer,
  }));
  const on = entry.conversation_id
    ? { conversation: entry.conversation_id }
    : { previous_response_id: entry.id };
  try {
    const body = { model: entry.model, background: true, input, ...on };
    location.hash = (await post("v1/responses", body, entry.principal || undefined)).id;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    answers.clear();
    output.error("Could not answer", problem.message);
  }
}
