// Vercel's AI SDK: generateText and streamText over several steps, with @ai-sdk/openai. By itself it
// sends what it has seen before as item_reference; with `store: false` as whole items.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { KEY, main, shown } from "./driver.mjs";

const City = z.object({ city: z.string(), degrees: z.number().int() });

async function play(turnsOf) {
  const texts = [];
  const messages = [];
  let previous;
  for (const [turn, said] of turnsOf.turns.entries()) {
    const openai = createOpenAI({ baseURL: turnsOf.url(turn), apiKey: KEY });
    const user = { role: "user", content: said };
    messages.push(user);
    const chained = turnsOf.history === "previous";
    const answer = await ask(turnsOf, {
      model: openai.responses(turnsOf.model),
      messages: chained ? [user] : messages,
      maxRetries: 0,
      stopWhen: stepCountIs(5),
      tools: {
        ...(turnsOf.tools ? { client_look: clientLook(turnsOf.look) } : {}),
        ...(turnsOf.hosted ? { web_search: openai.tools.webSearch({}) } : {}),
      },
      ...(turnsOf.structured ? { output: Output.object({ schema: City }) } : {}),
      providerOptions: { openai: options(turnsOf, previous) },
    });
    messages.push(...answer.messages);
    previous = answer.id;
    texts.push(turnsOf.structured ? shown(answer.output) : answer.text);
  }
  return texts;
}

function options({ history }, previous) {
  if (history === "whole") return { store: false };
  return history === "previous" && previous ? { previousResponseId: previous } : {};
}

function clientLook(look) {
  return tool({
    description: "Look a word up, at the client.",
    inputSchema: z.object({ word: z.string() }),
    execute: async ({ word }) => look(word),
  });
}

async function ask({ stream }, fields) {
  if (!stream) {
    const result = await generateText(fields);
    check(result.finishReason, result.content);
    const id = result.providerMetadata?.openai?.responseId;
    const output = fields.output && result.output;
    return { text: result.text, output, messages: result.response.messages, id };
  }
  let failure;
  const result = streamText({ ...fields, onError: ({ error }) => (failure = error) });
  const parts = [];
  for await (const part of result.fullStream) parts.push(part);
  if (failure) throw failure;
  check(await result.finishReason, parts);
  const id = (await result.providerMetadata)?.openai?.responseId;
  const output = fields.output && (await result.output);
  return { text: await result.text, output, messages: (await result.response).messages, id };
}

function check(finishReason, parts) {
  const wrong = parts.find((part) => part.type === "tool-error" || part.invalid);
  if (wrong) throw new Error(`${wrong.error?.name ?? wrong.type}: ${wrong.error?.message}`);
  if (finishReason !== "stop") throw new Error(`finish reason ${finishReason}`);
}

await main(play);
