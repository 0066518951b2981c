/* The runs that this browser started: {id, model, input, status, at}, newest first. */

const KEY = "longrun.runs";
const KEPT = 20;
const LONGEST_INPUT = 2000;

export function all() {
  // Storage may be forbidden, or hold what another version wrote.
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return stored.filter((run) => typeof run?.id === "string");
  } catch {
    return [];
  }
}

export const find = (id) => all().find((run) => run.id === id);

export function add(run) {
  const short = { ...run, input: run.input.slice(0, LONGEST_INPUT), at: Date.now() };
  store([short, ...all().filter((other) => other.id !== run.id)].slice(0, KEPT));
}

/** Note a run's status. Returns whether it is another than before. */
export function note(id, status) {
  const runs = all();
  const run = runs.find((each) => each.id === id);
  if (!run || run.status === status) return false;
  run.status = status;
  store(runs);
  return true;
}

export const forget = () => store([]);

function store(runs) {
  try {
    localStorage.setItem(KEY, JSON.stringify(runs));
  } catch {
    // A list less; the page works without it.
  }
}
