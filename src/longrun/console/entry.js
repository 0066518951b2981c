/* One run as a row of the list. */

import { ago, badge, count, element, FINISHED, lasting, short, when } from "./dom.js";

/** The cells of a row, in order: `text`, or `nodes` that are made anew when their `key` changes. */
export function cells(entry) {
  const { status, input, model, usage, error, waits } = entry;
  const words = waits ? "asks" : undefined;
  return [
    {
      name: "c-status",
      nodes: { key: `${status} ${waits}`, made: () => [marked(badge(status, words), entry)] },
    },
    { name: "c-input", nodes: { key: `${input} ${error?.message}`, made: () => what(entry) } },
    { name: "c-agent", text: model, title: model },
    { name: "c-age", text: ago(Date.now() - entry.created_at * 1000), title: when(entry.created_at * 1000) },
    { name: "c-took", text: duration(entry) },
    { name: "c-attempt", text: attempts(entry), title: attemptsInWords(entry) },
    { name: "c-replica", text: replica(entry.replica_id), title: entry.replica_id ?? "" },
    { name: "c-events", text: count(entry.events) },
    { name: "c-tokens", text: usage ? short(usage.total_tokens) : "", title: tokens(usage) },
    { name: "c-user", text: entry.user ?? "", title: entry.user ?? "" },
    { name: "c-principal", text: entry.principal, title: entry.principal },
  ];
}

function marked(made, { waits }) {
  if (waits) made.dataset.waits = "true";
  return made;
}

function what({ id, input, error, reason }) {
  const link = element("a", "asked", input || (input === null ? "Not readable here" : "No text"));
  if (!input) link.classList.add("none");
  link.href = `#${id}`;
  const code = element("code", "id", id);
  const wrong = error ? error.message : reason ? `Incomplete: ${reason}` : "";
  return [link, wrong ? element("span", "wrong", wrong) : code];
}

function duration({ status, created_at: created, finished_at: finished }) {
  if (status === "queued") return "";
  const end = FINISHED.has(status) ? finished * 1000 : Date.now();
  return lasting(Math.max(0, end - created * 1000));
}

const attempts = ({ attempt }) => (attempt > 1 ? `${attempt}` : attempt ? "1" : "");

function attemptsInWords({ attempt, deaths, handovers }) {
  const parts = [`attempt ${attempt}`];
  if (deaths) parts.push(`replicas that died in a row: ${deaths}`);
  if (handovers) parts.push(`handovers in a row: ${handovers}`);
  return parts.join("; ");
}

const replica = (id) => (id ? id.replace(/^\w+_/, "").slice(-6) : "");

const tokens = (usage) =>
  usage ? `${count(usage.input_tokens)} in, ${count(usage.output_tokens)} out` : "";
