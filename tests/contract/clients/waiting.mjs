// What openai-node makes of a plain answer that takes long: `node waiting.mjs BASE_URL INPUT openai6`.

const [baseURL, input, name] = process.argv.slice(2);
const { default: OpenAI } = await import(name);

// Retries as by default: one would be another run.
const client = new OpenAI({ baseURL, apiKey: "none" });
const { id, status, output_text } = await client.responses.create({ model: "scripted", input });
console.log(JSON.stringify({ id, status, output_text }));
