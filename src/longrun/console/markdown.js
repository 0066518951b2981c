/* Markdown as elements, made of text and nothing else: models are strangers.

   No character is lost. What only marks is there too, hidden, so that the text of the elements is
   the text that came, and can be compared with what is stored. Nothing is loaded: a picture is a
   link. */

import { element } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^( {0,3}#{1,6} +)(.*)$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9}[.)]))(\s+)(.*)$/;
const QUOTE = /^( {0,3}> ?)(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const ROW = /^\s*\|.*\|\s*$/;
const DIVIDER = /^\s*\|(\s*:?-+:?\s*\|)+\s*$/;

const INLINE = new RegExp(
  [
    "(?<code>(?<ticks>`+)(?!`)(?<inside>.+?)(?<!`)\\k<ticks>(?!`))",
    "(?<strong>\\*\\*(?=\\S)(?<bold>.+?)(?<=\\S)\\*\\*|__(?=\\S)(?<bold2>.+?)(?<=\\S)__(?!\\w))",
    "(?<em>\\*(?=[^\\s*])(?<slanted>[^*\\n]+?)(?<=\\S)\\*|(?<!\\w)_(?=[^\\s_])(?<slanted2>[^_\\n]+?)(?<=\\S)_(?!\\w))",
    "(?<del>~~(?=\\S)(?<struck>.+?)(?<=\\S)~~)",
    "(?<link>!?\\[(?<label>[^\\]\\n]{1,400})\\]\\((?<to>https?:\\/\\/[^\\s()]{1,2000}|mailto:[^\\s()]{1,200})\\))",
    "(?<url>https?:\\/\\/[^\\s<>()\\[\\]\"'`]{1,2000}[^\\s<>()\\[\\]\"'`.,;:!?*_~])",
  ].join("|"),
  "gu",
);

const LONGEST_LINE = 4000; // characters of a line in which marks are looked for
const DEEPEST = 4; // marks within marks

/** What a text that comes in parts is within: a fence of code goes on in the next part. */
export class Markdown {
  #fence = "";

  /** Show a part of the text in an element, in place of what it has. */
  render(text, parent) {
    parent.replaceChildren();
    const lines = text.split(/(?<=\n)/u);
    for (let at = 0; at < lines.length; ) at = this.#take(lines, at, parent);
  }

  /** Show what begins at a line. Returns where the next begins. */
  #take(lines, at, parent) {
    const line = lines[at].replace(/\n$/u, "");
    const fence = FENCE.exec(line)?.[1] ?? "";
    if (this.#fence || fence) return this.#code(lines, at, parent);
    if (!line.trim()) parent.append(hidden(lines[at]));
    else if (RULE.test(line)) parent.append(element("hr"), hidden(lines[at]));
    else if (ROW.test(line)) return table(lines, at, parent);
    else parent.append(block(line, lines[at].length > line.length));
    return at + 1;
  }

  #code(lines, at, parent) {
    const code = element("code");
    const pre = element("pre", "fence", "", code);
    pre.tabIndex = 0; // it scrolls
    parent.append(pre);
    if (!this.#fence) {
      this.#fence = FENCE.exec(lines[at])[1];
      code.append(hidden(lines[at]));
      at += 1;
    }
    let shown = "";
    for (; at < lines.length; at += 1) {
      const end = FENCE.exec(lines[at])?.[1] ?? "";
      if (end.startsWith(this.#fence) && lines[at].trim() === end) {
        this.#fence = "";
        code.append(shown, hidden(lines[at]));
        return at + 1;
      }
      shown += lines[at];
    }
    code.append(shown);
    return at;
  }
}

/** A line of its own: a heading, an item, a quotation, or text. */
function block(line, ended) {
  const end = ended ? [hidden("\n")] : [];
  let found = HEADING.exec(line);
  if (found) {
    const made = element("div", "heading", "", hidden(found[1]), ...inline(found[2]), ...end);
    made.setAttribute("role", "heading");
    made.setAttribute("aria-level", String(Math.min(6, found[1].trim().length + 2)));
    return made;
  }
  found = ITEM.exec(line);
  if (found) {
    const [, indent, bullet, number, space, rest] = found;
    const mark = bullet ? hidden(indent + bullet + space) : element("span", "number", indent + number + space);
    const made = element("div", bullet ? "item bullet" : "item", "", mark, ...inline(rest), ...end);
    made.dataset.depth = String(Math.min(3, Math.floor(indent.replaceAll("\t", "  ").length / 2)));
    return made;
  }
  found = QUOTE.exec(line);
  if (found) return element("div", "quote", "", hidden(found[1]), ...inline(found[2]), ...end);
  return element("div", "para", "", ...inline(line), ...end);
}

function table(lines, at, parent) {
  const made = element("div", "table");
  const head = at + 1 < lines.length && DIVIDER.test(lines[at + 1].replace(/\n$/u, ""));
  for (let first = true; at < lines.length && ROW.test(lines[at].replace(/\n$/u, "")); at += 1) {
    if (DIVIDER.test(lines[at].replace(/\n$/u, ""))) {
      made.append(hidden(lines[at]));
      continue;
    }
    const row = element("div", first && head ? "row head" : "row");
    for (const piece of lines[at].split(/(\|)/u)) {
      const isCell = piece !== "|" && piece.trim();
      row.append(isCell ? element("span", "cell", "", ...inline(piece)) : hidden(piece));
    }
    made.append(row);
    first = false;
  }
  parent.append(made);
  return at;
}

/** Text with its marks as elements. */
function inline(text, depth = 0) {
  if (depth > DEEPEST || text.length > LONGEST_LINE) return [text];
  const made = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    if (found.index > at) made.push(text.slice(at, found.index));
    made.push(...marked(found, depth));
    at = found.index + found[0].length;
  }
  if (at < text.length) made.push(text.slice(at));
  return made;
}

function marked(found, depth) {
  const whole = found[0];
  const { code, ticks, inside, bold, bold2, slanted, slanted2, struck, label, to, url } = found.groups;
  if (code) return [hidden(ticks), element("code", "", inside), hidden(ticks)];
  if (url) return [link(url, whole)];
  const within = bold ?? bold2 ?? slanted ?? slanted2 ?? struck ?? label;
  const start = whole.indexOf("[") === 0 || whole.startsWith("![") ? whole.indexOf("[") + 1 : (whole.length - within.length) / 2;
  const before = hidden(whole.slice(0, start));
  const after = hidden(whole.slice(start + within.length));
  if (to) return [before, link(to, within), after];
  const name = bold || bold2 ? "strong" : struck ? "del" : "em";
  return [before, element(name, "", "", ...inline(within, depth + 1)), after];
}

function link(to, text) {
  const made = element("a", "", text);
  made.href = to;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return made;
}

/** Characters that only mark. */
const hidden = (text) => element("span", "mark", text);
