// The openai package of npm, 6 or 7: `node openai_node.mjs CASES openai6`.

import { z } from "zod";

import { KEY, LOOK, main, shown } from "./driver.mjs";

const { default: OpenAI } = await import(process.argv[3]);
const { zodTextFormat } = await import(`${process.argv[3]}/helpers/zod`);

const City = z.object({ city: z.string(), degrees: z.number().int() });

async function play(turnsOf) {
  const texts = [];
  const items = [];
  let previous;
  for (const [turn, said] of turnsOf.turns.entries()) {
    const client = new OpenAI({ baseURL: turnsOf.url(turn), apiKey: KEY, maxRetries: 0 });
    let news = [{ role: "user", content: said }];
    let response;
    while (news.length > 0) {
      items.push(...news);
      const given = turnsOf.history === "previous" ? news : items;
      response = await ask(client, turnsOf, given, previous);
      previous = turnsOf.history === "previous" ? response.id : undefined;
      items.push(...goingBack(turnsOf, response.output));
      news = answers(turnsOf, response.output);
    }
    const parsed = turnsOf.structured && response.output_parsed;
    texts.push(parsed ? shown(parsed) : response.output_text);
  }
  return texts;
}

async function ask(client, { model, tools, stream, structured }, input, previous) {
  const fields = {
    model,
    input,
    ...(previous ? { previous_response_id: previous } : {}),
    ...(tools ? { tools: [LOOK] } : {}),
    ...(structured ? { text: { format: zodTextFormat(City, "city") } } : {}),
  };
  let response;
  if (stream) {
    const events = client.responses.stream(fields);
    let streamed = "";
    for await (const event of events) {
      if (event.type === "response.output_text.delta") streamed += event.delta;
    }
    response = await events.finalResponse();
    if (!streamed.endsWith(response.output_text)) {
      throw new Error(`${streamed} is not ${response.output_text}`);
    }
  } else {
    response = await client.responses[structured ? "parse" : "create"](fields);
  }
  if (response.status !== "completed") {
    throw new Error(`${response.status}: ${JSON.stringify(response.error)}`);
  }
  return response;
}

function goingBack({ history }, output) {
  if (history !== "reference") return output;
  return output.map((item) => ({ type: "item_reference", id: item.id }));
}

function answers({ look }, output) {
  const done = new Set(
    output.filter((item) => item.type === "function_call_output").map((item) => item.call_id),
  );
  const open = output.filter((item) => item.type === "function_call" && !done.has(item.call_id));
  return open.map((call) => {
    if (call.name !== LOOK.name) throw new Error(`Tool ${call.name} not found`);
    const output = look(JSON.parse(call.arguments).word);
    return { type: "function_call_output", call_id: call.call_id, output };
  });
}

await main(play);
