// Webhooks by the openai package of npm: `node webhooks.mjs GIVEN openai7`. Unwraps what came in, and
// manages endpoints where GIVEN says on which server.

const { default: OpenAI } = await import(process.argv[3]);
const given = JSON.parse(process.argv[2]);

const client = new OpenAI({ baseURL: given.server, apiKey: "none", webhookSecret: given.secret, maxRetries: 0 });

const saw = { event: await client.webhooks.unwrap(given.body, given.headers), refused: false };
try {
  await client.webhooks.unwrap(given.body + " ", given.headers);
} catch (error) {
  saw.refused = error instanceof OpenAI.InvalidWebhookSignatureError;
}

if (given.url) {
  const { webhooks } = client;
  saw.types = (await webhooks.eventTypes.list()).data;
  const made = await webhooks.create({ name: "node's", url: given.url, event_types: ["response.failed"] });
  const rotated = await webhooks.rotateSecret(made.id, { keep_old_secret_active_for_24_hours: true });
  const changed = await webhooks.update(made.id, { event_types: ["response.completed"] });
  const tested = await webhooks.test(made.id, { event_type: "response.completed" });
  const listed = [];
  for await (const each of webhooks.list({ limit: 1 })) listed.push(each.id);
  const gone = await webhooks.delete(made.id);
  Object.assign(saw, { made, rotated, changed, tested, listed, gone });
}

console.log(JSON.stringify(saw));
