// What a client on openai-node makes of a stored response, as JSON:
// `node takeover.mjs BASE_URL RESPONSE_ID openai6`.

const [baseURL, id, name] = process.argv.slice(2);
const { default: OpenAI } = await import(name);

// What a client shows: `output` of every event that has a response replaces it.
class Shown {
  texts = [];

  take(event) {
    if (event.response) this.texts = event.response.output.map(textOf);
    else if (event.type === "response.output_text.delta") {
      this.texts[event.output_index] = (this.texts[event.output_index] ?? "") + event.delta;
    }
  }

  get text() {
    return this.texts.join("");
  }
}

const textOf = (item) =>
  item.type === "message" ? item.content.map((part) => part.text).join("") : "";

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// Of a client whose connection broke after an event: before and after the terminal one.
async function byRule(client, events, cursor) {
  const shown = new Shown();
  for (const event of events.slice(0, cursor + 1)) shown.take(event);
  let before = shown.text;
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: cursor });
  for await (const event of rest) {
    before = shown.text;
    shown.take(event);
  }
  return [before, shown.text];
}

// What the SDK itself adds up.
async function accumulated(client) {
  const stream = client.responses.stream({ response_id: id });
  await all(stream);
  return (await stream.finalResponse()).output_text;
}

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const events = await all(await client.responses.retrieve(id, { stream: true }));
const deltas = events.filter((event) => event.type === "response.output_text.delta");
const rules = [];
for (let cursor = 0; cursor < events.length - 1; cursor += 1) {
  rules.push(await byRule(client, events, cursor));
}
const said = {
  stored: (await client.responses.retrieve(id)).output_text,
  accumulated: await accumulated(client),
  by_rule: rules,
  deltas_alone: deltas.map((event) => event.delta).join(""),
};
console.log(JSON.stringify(said));
