/* The steps of a run, and forks: from a finished step the run goes on as another one, with what is
   said in the dialog behind it. */

import { textIn } from "./again.js";
import { get, post, Problem } from "./api.js";
import { $, button, element, setText } from "./dom.js";

const KINDS = { model: "Turn", tool: "Tool", handoff: "Handoff" };

let shown = null; // the run whose steps are listed, as run.js has it

/** From here on, the steps are those of a run; null: of none. */
export function stepsOf(run) {
  shown = run;
  $("steps").replaceChildren();
  $("no-steps").hidden = true;
}

/** Show them as they are now, if that is wanted: all of them have to be read for it. */
export async function showSteps() {
  const run = shown;
  if (!run?.follower || !$("steps-box").open) return;
  try {
    const { data } = await get(`v1/runs/${run.id}/steps`);
    if (shown !== run) return;
    $("steps").replaceChildren(start(run), ...data.map((step) => row(run, step)));
    $("no-steps").hidden = data.length > 0;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
  }
}

/** Before all steps: the same input, or another one in its place. */
function start(run) {
  return line("0", "Start", "its input", "", () => offer(run, 0, "from the start", asked(run)));
}

function row(run, { step, kind, name, arguments: words, finished }) {
  const what = `step ${step}, ${KINDS[kind].toLowerCase()} ${name}`;
  const fork = finished ? () => offer(run, step, `from ${what}`, "") : null;
  return line(String(step), KINDS[kind], name, words, fork);
}

function line(number, kind, name, words, fork) {
  const end = fork ? button("Fork", "quiet", fork) : element("span", "hint", "running…");
  if (fork) end.setAttribute("aria-label", `Fork from step ${number}`);
  return element(
    "li",
    "",
    "",
    element("span", "step-number", number),
    element("span", "step-kind", kind),
    element("span", "step-name", name),
    element("span", "step-words", words),
    end,
  );
}

/** What a user said last in the input of a run. */
function asked(run) {
  const texts = (run.asked ?? []).filter(({ role }) => role === "user").map(textIn);
  return texts.at(-1) ?? "";
}

function offer(run, step, words, given) {
  setText("fork-what", `Fork ${words}`);
  setText("fork-hint", step ? "Comes behind the recorded steps. Empty: the run goes on as it did." : "In place of its input.");
  setText("fork-problem", "");
  $("fork-input").value = given;
  $("fork-form").onsubmit = (event) => {
    event.preventDefault();
    if (event.submitter?.value === "no") $("fork").close();
    else begin(run, step);
  };
  $("fork").showModal();
}

async function begin(run, step) {
  const text = $("fork-input").value;
  const body = { background: true, longrun: { fork: { response_id: run.id, step } } };
  if (text.trim()) body.input = text;
  try {
    const made = await post("v1/responses", body, run.entry?.principal || undefined);
    $("fork").close();
    location.hash = made.id;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    setText("fork-problem", problem.message);
  }
}

$("steps-box").addEventListener("toggle", showSteps);
