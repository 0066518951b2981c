/* Elements, and how figures are written. */

export const $ = (id) => document.getElementById(id);

/** An element with a class, text and children. */
export function element(name, className = "", text = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** A button that does something. */
export function button(text, className, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

export function setText(node, text) {
  const at = typeof node === "string" ? $(node) : node;
  if (at.textContent !== text) at.textContent = text;
}

/** A function that calls `update` at most once a frame, however often it is called itself. */
export function perFrame(update) {
  let frame = 0;
  let timer = 0;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = timer = 0;
    update();
  };
  return () => {
    if (timer) return;
    frame = requestAnimationFrame(run);
    timer = setTimeout(run, 500); // a hidden page has no frames
  };
}

/** Say something to screen readers. */
export const say = (text) => setText("said", text);

export const STATUS_WORDS = { in_progress: "running" };
export const FINISHED = new Set(["completed", "failed", "incomplete", "cancelled"]);

export const statusWords = (status) => STATUS_WORDS[status] ?? status;

/** A status as a badge. */
export function badge(status, words = statusWords(status)) {
  const made = element("span", "badge", words);
  made.dataset.status = status;
  return made;
}

const STEPS = [
  [1, "ms", 1000],
  [1000, "s", 60],
  [60_000, "min", 60],
  [3_600_000, "h", 48],
  [86_400_000, "d", Infinity],
];

/** Milliseconds in words: `340 ms`, `2.4 s`, `3 min 5 s`. */
export function lasting(ms) {
  if (ms < 1) return "0 ms";
  const [unit, name] = STEPS.find(([size, , most]) => ms / size < most) ?? STEPS.at(-1);
  const amount = ms / unit;
  if (name === "ms") return `${Math.round(amount)} ms`;
  if (name === "s") return `${amount < 10 ? amount.toFixed(1) : Math.floor(amount)} s`;
  const [below, smaller] = STEPS[STEPS.findIndex(([size]) => size === unit) - 1];
  const rest = Math.floor((ms % unit) / below);
  return rest ? `${Math.floor(amount)} ${name} ${rest} ${smaller}` : `${Math.floor(amount)} ${name}`;
}

/** How long ago, in one unit: `12 s`, `3 min`, `2 d`. */
export function ago(ms) {
  const units = STEPS.slice(1);
  const [unit, name] = units.find(([size, , most]) => ms / size < most) ?? units.at(-1);
  return `${Math.max(0, Math.floor(ms / unit))} ${name}`;
}

/** A time of day, with the date if it is another day's. */
export function when(ms) {
  const then = new Date(ms);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString([], { dateStyle: today ? undefined : "medium", timeStyle: "medium" });
}

export const count = (n) => n.toLocaleString("en");

/** A number in few characters: `912`, `12.3k`, `4.5M`. */
export function short(n) {
  if (n < 1000) return String(n);
  const [unit, name] = n < 1e6 ? [1e3, "k"] : [1e6, "M"];
  const amount = n / unit;
  return `${amount < 100 ? amount.toFixed(1) : Math.round(amount)}${name}`;
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; n >= 1024 && at < units.length - 1; at += 1) n /= 1024;
  return `${at && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}
