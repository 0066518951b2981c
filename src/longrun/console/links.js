/* The same with curl, and links to the raw stream and the response. */

import { textIn } from "./again.js";
import { key, pathOf, Problem, tokenFor } from "./api.js";
import { $, setText } from "./dom.js";

let id = "";

/** Show the commands and links of a run. */
export function showLinks(of, { model, items } = {}) {
  id = of;
  const base = new URL(pathOf(id), document.baseURI).href;
  const create = new URL("v1/responses", document.baseURI).href;
  $("raw").href = `${base}?stream=true`;
  $("json").href = base;
  const bearer = key.get() ? ' -H "authorization: Bearer $LONGRUN_API_KEY"' : "";
  const lines = [];
  if (model && items?.length === 1 && textIn(items[0])) {
    const body = JSON.stringify({ model, input: textIn(items[0]), background: true });
    lines.push(
      "# start it",
      `curl ${create}${bearer} -H 'content-type: application/json' \\`,
      `  -d '${body.replaceAll("'", "'\\''")}'`,
    );
  }
  lines.push(
    "# follow it; after a cut, pass the last sequence number received",
    `curl -N${bearer} '${base}?stream=true'`,
    `curl -N${bearer} '${base}?stream=true&starting_after=41'`,
  );
  setText("curl", lines.join("\n"));
}

async function copy() {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

/** A link to what a key is needed for: a new tab has none, so it gets a token. */
async function openLink(event) {
  if (!key.get()) return;
  event.preventDefault();
  const link = event.currentTarget;
  const opened = open("about:blank", "_blank");
  try {
    const token = await tokenFor(id);
    const url = new URL(link.href);
    url.search += url.search ? `&${token}` : `?${token}`;
    if (opened) {
      opened.opener = null;
      opened.location = url.href;
    }
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    opened?.close();
    setText("said", problem.message);
  }
}

$("raw").addEventListener("click", openLink);
$("json").addEventListener("click", openLink);
$("copy").addEventListener("click", copy);
$("copy").hidden = !navigator.clipboard; // only on https and localhost
