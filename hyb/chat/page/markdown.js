// Markdown to DOM nodes. Text of the model only ever becomes text nodes: there is no innerHTML here, nor a way to it.
// Images and HTML stay text, links lead to http(s) and mailto alone. While an answer streams in, only its last blocks
// are made anew (`draw`).

const DEEPEST = 8;

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key in node && key !== "list") node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `icon.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// -- blocks ---------------------------------------------------------------------------------------------------------

// Each must take time in proportion to the line, whatever a model writes: no two repetitions that can share characters.
const FENCE = /^( {0,3})(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const ITEM = /^( {0,8})([-*+]|\d{1,9}[.)])(?:[ \t]+(.*)|)$/;
const HEAD = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const TABLE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const cut = (text, signs) => { let n = text.length; while (n && signs.includes(text[n - 1])) n--; return text.slice(0, n); };
const blank = (line) => !line.trim();
const indent = (line) => line.length - line.trimStart().length;

/** Lines → [{kind, lines, …}]. The same text gives the same blocks, and text added at the end changes only the last. */
export function blocks(lines) {
  const found = [];
  let i = 0;
  while (i < lines.length) {
    const start = i, line = lines[i];
    let match;
    if (blank(line)) { i++; continue; }
    if ((match = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}${match[2][0] === "`" ? "`" : "~"}{${match[2].length},}[ \\t]*$`);
      const body = [];
      for (i++; i < lines.length && !close.test(lines[i]); i++) body.push(lines[i].slice(Math.min(match[1].length, indent(lines[i]))));
      found.push({ kind: "code", name: match[3].trim().split(/\s/)[0], body, closed: i < lines.length });
      i++;
    } else if ((match = HEAD.exec(line))) {
      found.push({ kind: "head", level: match[1].length, text: cut(match[2], " \t#") });
      i++;
    } else if (RULE.test(line)) {
      found.push({ kind: "rule" });
      i++;
    } else if (QUOTE.test(line)) {
      const body = [];
      for (; i < lines.length && !blank(lines[i]) && (QUOTE.test(lines[i]) || !starts(lines[i])); i++) body.push(QUOTE.exec(lines[i])?.[1] ?? lines[i]);
      found.push({ kind: "quote", body });
    } else if (ITEM.test(line)) {
      i = list(lines, i, found);
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].length < 1000 && lines[i + 1].includes("-") && TABLE.test(lines[i + 1])) {
      const rows = [cells(line)];
      for (i += 2; i < lines.length && !blank(lines[i]) && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
      found.push({ kind: "table", rows });
    } else {
      const body = [line];
      for (i++; i < lines.length && !blank(lines[i]) && !starts(lines[i]); i++) body.push(lines[i]);
      found.push({ kind: "text", text: body.join("\n") });
    }
    found[found.length - 1].source = lines.slice(start, i).join("\n");
  }
  return found;
}

const starts = (line) => FENCE.test(line) || HEAD.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());

function list(lines, i, found) {
  const first = ITEM.exec(lines[i]), ordered = /\d/.test(first[2]), items = [];
  let base = first[1].length, loose = false;
  while (i < lines.length) {
    const match = ITEM.exec(lines[i]);
    if (match && match[1].length < base + 2 && /\d/.test(match[2]) === ordered && !RULE.test(lines[i])) {
      const width = match[1].length + match[2].length + 1;
      items.push({ width, lines: [match[3] ?? ""] });
      i++;
    } else if (blank(lines[i])) {
      let next = i;
      while (next < lines.length && blank(lines[next])) next++;
      if (next === lines.length) break;
      const follows = ITEM.exec(lines[next]);
      if (indent(lines[next]) < 2 && !(follows && /\d/.test(follows[2]) === ordered)) break;
      loose = true;
      items.at(-1).lines.push("");
      i = next;
    } else if (indent(lines[i]) >= 2 && indent(lines[i]) > base) {
      items.at(-1).lines.push(lines[i].slice(Math.min(indent(lines[i]), items.at(-1).width)));
      i++;
    } else if (!starts(lines[i]) && !blank(lines[i - 1])) {
      items.at(-1).lines.push(lines[i].trimStart());
      i++;
    } else break;
  }
  found.push({ kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items, loose });
  return i;
}

function build(block, depth, code) {
  switch (block.kind) {
    case "code": return code(block);
    case "head": return depth || !block.text ? el("p", {}, ...inline(block.text)) // one that has no text yet is no heading
      : el(`h${Math.min(block.level, 4)}`, { role: "heading", ariaLevel: block.rank }, ...inline(block.text));
    case "rule": return el("hr");
    case "quote": return el("blockquote", {}, ...nested(block.body, depth, code));
    case "list": return el(block.ordered ? "ol" : "ul", block.ordered ? { start: block.start } : {}, ...block.items.map((item) => {
      const inner = nested(item.lines, depth, code);
      if (!block.loose && inner[0]?.tagName === "P") inner.splice(0, 1, ...inner[0].childNodes);
      return el("li", {}, ...inner);
    }));
    case "table": return el("div", { className: "scroll", tabIndex: 0 }, el("table", {},
      el("thead", {}, el("tr", {}, ...block.rows[0].map((c) => el("th", { scope: "col" }, ...inline(c))))),
      el("tbody", {}, ...block.rows.slice(1).map((row) => el("tr", {}, ...block.rows[0].map((_, n) => el("td", {}, ...inline(row[n] ?? ""))))))));
    default: return el("p", {}, ...inline(block.text));
  }
}

const nested = (lines, depth, code) => depth >= DEEPEST
  ? [el("p", {}, lines.join("\n"))] : blocks(lines).map((b) => build(b, depth + 1, code));

// -- within a line --------------------------------------------------------------------------------------------------

const MARK = /(`+)|(\*{1,3}|_{1,3}|~~)|(!?\[)|\\([!-/:-@[-`{-~])|<(https?:\/\/[^\s<>]+)>|(https?:\/\/[^\s<>"'`|\\^{}]+)|( {2,}\n|\n)/g;

/** Text → nodes. What is opened and never closed stays as it was written. */
export function inline(text, depth = 0) {
  const out = [], add = (part) => { if (part) out.push(part); };
  let at = 0, match, tries = 0;
  const mark = new RegExp(MARK.source, "g");
  while ((match = mark.exec(text))) {
    const [whole, ticks, stars, bracket, escaped, angled, bare, line] = match;
    let node = null, end = match.index + whole.length;
    if (ticks) {
      const close = tries < 200 ? closing(text, end, ticks) : -1;
      if (close >= 0) { node = el("code", {}, text.slice(end, close).replace(/^ (.*) $/s, "$1")); end = close + ticks.length; } else tries++;
    } else if (stars && depth < DEEPEST) {
      const close = tries < 200 && fits(text, match.index, stars) ? emphasis(text, end, stars) : -1;
      if (close >= 0) { node = styled(stars, inline(text.slice(end, close), depth + 1)); end = close + stars.length; } else tries++;
    } else if (bracket) {
      const link = tries < 200 ? linked(text, match.index + (bracket.length - 1)) : null;
      if (link) { node = anchor(link.href, link.label, depth, bracket === "![") ; end = link.end; } else tries++;
    } else if (escaped) node = escaped;
    else if (angled) node = anchor(angled, angled, DEEPEST);
    else if (bare) {
      let href = cut(bare, ".,;:!?*_~");
      if (href.endsWith(")") && !href.includes("(")) href = href.slice(0, -1);
      node = anchor(href, href, DEEPEST);
      end = match.index + href.length;
    } else if (line) node = el("br");
    if (node === null) { mark.lastIndex = end; continue; }
    add(text.slice(at, match.index));
    add(node);
    at = mark.lastIndex = end;
  }
  add(text.slice(at));
  return out;
}

function closing(text, from, ticks) {
  for (let i = text.indexOf(ticks, from); i >= 0; i = text.indexOf(ticks, i)) {
    let n = i;
    while (text[n] === "`") n++;
    if (n - i === ticks.length) return i;
    i = n;
  }
  return -1;
}

const word = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);
const fits = (text, at, stars) => {
  const next = text[at + stars.length];
  return next !== undefined && !/\s/.test(next) && !(stars[0] === "_" && word(text[at - 1]));
};

function emphasis(text, from, stars) {
  for (let i = text.indexOf(stars, from); i >= 0; i = text.indexOf(stars, i + 1)) {
    const after = text[i + stars.length];
    if (i === from || /\s/.test(text[i - 1]) || (stars[0] === "_" && word(after))) continue;
    if (stars.length < 3 && after === stars[0] && text[i - 1] !== stars[0]) { i += stars.length; if (stars.length === 1) continue; i -= stars.length; }
    return i;
  }
  return -1;
}

const styled = (stars, inner) => stars === "~~" ? el("s", {}, ...inner)
  : stars.length === 3 ? el("strong", {}, el("em", {}, ...inner))
  : el(stars.length === 2 ? "strong" : "em", {}, ...inner);

function linked(text, open) {
  const close = text.indexOf("](", open);
  if (close < 0 || close - open > 1000 || text.slice(open + 1, close).includes("\n\n")) return null;
  let level = 1, i = close + 2;
  for (; i < text.length && level && i - close < 2000; i++) {
    if (text[i] === "(") level++; else if (text[i] === ")") level--; else if (text[i] === "\n") return null;
  }
  if (level) return null;
  const href = text.slice(close + 2, i - 1).trim().replace(/\s+["'(].*$/, "").replace(/^<|>$/g, "");
  return { href, label: text.slice(open + 1, close), end: i };
}

/** A link that leads where it says, or plain text. */
function anchor(href, label, depth, image = false) {
  let url = null;
  try { url = new URL(href); } catch { /* relative, or none */ }
  const safe = url && ["http:", "https:", "mailto:"].includes(url.protocol) && !url.username && !url.password;
  const inner = depth < DEEPEST && !image ? inline(label, DEEPEST) : [label || href];
  if (!safe) return el("span", { title: href.slice(0, 300) }, ...inner);
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href.slice(0, 300) }, ...inner);
}

// -- drawing --------------------------------------------------------------------------------------------------------

/** Headings as one hears them: below the message's own (2), and none deeper than one step below the one before it. */
function rank(heads) {
  const above = [];
  for (const head of heads) {
    while (above.length && above.at(-1) >= head.level) above.pop();
    above.push(head.level);
    head.rank = Math.min(above.length + 2, 6);
  }
}

/** Show `text` in `box`: blocks that are as they were keep their nodes, and with them selection and scrolling. */
export function draw(box, text, code) {
  const wanted = blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"));
  const had = box.made ?? [];
  rank(wanted.filter((b) => b.kind === "head"));
  wanted.forEach((block, i) => {
    const old = had[i];
    if (old && old.source === block.source && old.kind === block.kind) return;
    if (old && old.kind === "code" && block.kind === "code" && old.name === block.name) {
      box.children[i].querySelector("code").textContent = block.body.join("\n");
      return;
    }
    const node = build(block, 0, code);
    if (box.children[i]) box.children[i].replaceWith(node); else box.append(node);
  });
  while (box.children.length > wanted.length) box.lastElementChild.remove();
  box.made = wanted;
}
