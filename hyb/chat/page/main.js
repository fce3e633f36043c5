// The page: what is shown, and what happens when somebody acts.

import { draw, el, icon } from "./markdown.js";
import * as history from "./history.js";
import * as stream from "./stream.js";
import { choose, error as errorText, language, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const ask = $("ask"), box = $("messages"), scroll = $("scroll");
const wide = matchMedia("(min-width: 821px)"), touch = matchMedia("(hover: none) and (pointer: coarse)");

let config = { title: "Chat", note: "", sign_in: "none", signed_in: true, messages: 200, bytes: 262144 };
let chat = history.fresh();
let up = null; // is the model there? null: not known yet
let answering = null; // {controller, message, node, chat} while an answer comes
let stuck = true; // the view follows the end

// -- little things --------------------------------------------------------------------------------------------------

const say = (text) => { $("live").textContent = ""; setTimeout(() => { $("live").textContent = text; }, 60); };
const button = (name, label, act, text) => el("button", { type: "button", "aria-label": label, title: text ? "" : label, onclick: act }, icon(name), ...(text ? [text] : []));

async function copy(text, from) {
  try { await navigator.clipboard.writeText(text); } catch { say(t("notCopied")); return; }
  say(t("copied"));
  from.replaceChild(icon("check"), from.querySelector("svg"));
  setTimeout(() => from.isConnected && from.replaceChild(icon("copy"), from.querySelector("svg")), 1500);
}

function codeBlock(block) {
  const code = el("code", {}, block.body.join("\n"));
  const press = el("button", { type: "button" }, icon("copy"), t("copy"));
  press.onclick = () => copy(code.textContent, press);
  return el("div", { className: "code" }, el("div", { className: "bar" }, el("span", {}, block.name || t("code")), press),
    el("pre", { tabIndex: 0 }, code));
}

function toEnd(force) {
  if (force) stuck = true;
  if (stuck) scroll.scrollTop = scroll.scrollHeight;
  $("down").hidden = stuck || scroll.scrollHeight - scroll.clientHeight < 40;
}

function grow(field) { field.style.height = "auto"; field.style.height = `${field.scrollHeight}px`; }

async function sure(title, text, yes) {
  $("sure-title").textContent = title;
  $("sure-text").textContent = text;
  $("sure-yes").textContent = yes;
  $("sure").returnValue = "no";
  $("sure").showModal();
  return new Promise((done) => $("sure").addEventListener("close", () => done($("sure").returnValue === "yes"), { once: true }));
}

// -- one message ----------------------------------------------------------------------------------------------------

function messageNode(message, index) {
  const node = el("li", { className: `msg ${message.role}` });
  node.append(el("h2", { className: "unseen" }, `${t(message.role === "user" ? "you" : "model")}: `));
  fill(node, message, index);
  return node;
}

function fill(node, message, index) {
  node.replaceChildren(node.firstChild);
  node.classList.remove("editing");
  if (message.role === "user") {
    node.append(el("div", { className: "body" }, message.content), tools(message, index));
    return;
  }
  const live = answering?.message === message;
  node.classList.toggle("live", live);
  node.setAttribute("aria-busy", String(live));
  if (message.thought) {
    const inner = el("div", { className: "md" }), open = node.thoughtOpen ?? false;
    const details = el("details", { className: "thought", open }, el("summary", {}, t(live && !message.content ? "thinking" : "thought")), inner);
    details.ontoggle = () => { node.thoughtOpen = details.open; };
    draw(inner, message.thought, codeBlock);
    node.append(details);
  }
  if (message.content) {
    const inner = el("div", { className: "md" });
    draw(inner, message.content, codeBlock);
    node.append(inner);
  }
  if (live && !message.content && !message.thought) node.append(waiting(answering.place));
  else remark(node, message, index, live);
  if (!live) node.append(tools(message, index));
}

const waiting = (place) => el("div", { className: "waiting" },
  el("span", { className: "dots", ariaHidden: "true" }, el("i"), el("i"), el("i")), ...(place ? [t("place", place)] : []));

function remark(node, message, index, live) {
  if (message.shortened) node.append(el("p", { className: "remark" }, t("shortened", message.shortened)));
  if (live) return;
  if (message.error) {
    const again = el("button", { type: "button", onclick: () => retry(index) }, t("retry"));
    const words = message.error === "unavailable" ? t("noAnswer") : errorText(message.error, message.seconds); // the banner says why
    node.append(el("div", { className: "remark bad" }, words, again));
  } else if (message.stopped) node.append(el("p", { className: "remark" }, t("stopped")));
  else if (message.finish === "length") node.append(el("p", { className: "remark" }, t("cutLength")));
  else if (!message.content) node.append(el("p", { className: "remark" }, t("empty")));
}

function tools(message, index) {
  const row = el("div", { className: "tools" });
  if (message.role === "user") row.append(button("pen", t("edit"), () => edit(index)));
  if (message.content) {
    const press = button("copy", t("copy"), () => copy(message.content, press));
    row.append(press);
  }
  if (message.role === "assistant" && !message.error) row.append(button("again", t("retry"), () => retry(index)));
  return row;
}

function edit(index) {
  if (answering) return;
  const node = box.children[index], field = el("textarea", { value: chat.messages[index].content, ariaLabel: t("edit") });
  const done = () => { fill(node, chat.messages[index], index); ask.focus(); };
  const again = () => {
    if (!field.value.trim()) return;
    chat.messages.length = index;
    question(field.value);
  };
  field.oninput = () => grow(field);
  field.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); done(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches) { event.preventDefault(); again(); }
  };
  node.classList.add("editing");
  node.replaceChildren(node.firstChild, field, el("div", { className: "row" },
    el("button", { type: "button", onclick: done }, t("cancel")),
    el("button", { type: "button", className: "primary", onclick: again }, t("save"))));
  grow(field);
  field.focus();
}

// -- asking ---------------------------------------------------------------------------------------------------------

function question(text) {
  if (answering) return;
  chat.messages.push({ role: "user", content: text });
  if (!chat.title) chat.title = text.trim().replace(/\s+/g, " ").slice(0, 60);
  answer();
}

function retry(index) {
  if (answering) return;
  chat.messages.length = index;
  if (chat.messages.at(-1)?.role === "user") answer(); else show();
}

/** What goes to the server: questions and the answers that came, without thoughts, as many of the last as it takes. */
function sent(messages) {
  const whole = messages.slice(0, -1).filter((m) => m.content && !(m.role === "assistant" && m.error && !m.content)).map(({ role, content }) => ({ role, content }));
  let kept = whole.slice(-(config.messages - 1)), size = new TextEncoder().encode(JSON.stringify(kept)).length;
  while (kept.length > 1 && size > config.bytes - 200) {
    size -= new TextEncoder().encode(JSON.stringify(kept[0])).length;
    kept = kept.slice(1);
  }
  return kept;
}

async function answer() {
  const message = { role: "assistant", content: "" };
  const mine = { controller: new AbortController(), message, chat, place: 0, node: null, frame: 0 };
  chat.messages.push(message);
  chat.used = Date.now();
  answering = mine;
  keep();
  show();
  toEnd(true);
  history.opened(chat.id);
  say(t("writing"));
  const saving = setInterval(() => keep(mine.chat), 2000);
  try {
    for await (const event of stream.ask(sent(chat.messages), mine.controller.signal)) take(event, mine);
    up = up ?? true;
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else if (error instanceof stream.Refused) { message.error = error.code; message.seconds = error.seconds; } else throw error;
  } finally {
    clearInterval(saving);
    cancelAnimationFrame(mine.frame);
    answering = null;
    ended(mine);
  }
}

function take(event, mine) {
  const { message } = mine;
  if (event.type === "queue") { mine.place = event.place; say(t("place", event.place)); }
  else if (event.type === "start") mine.place = 0;
  else if (event.type === "text") message.content += event.text;
  else if (event.type === "thought") message.thought = (message.thought ?? "") + event.text;
  else if (event.type === "was_thought") { message.thought = (message.thought ?? "") + message.content; message.content = ""; }
  else if (event.type === "shortened") message.shortened = event.kept;
  else if (event.type === "end") message.finish = event.finish;
  if (!mine.frame) mine.frame = requestAnimationFrame(() => { mine.frame = 0; redraw(mine); });
}

/** The message that grows: only what is new in it. */
function redraw(mine) {
  if (mine.chat !== chat || !mine.node?.isConnected) return;
  const { node, message } = mine, parts = [...node.querySelectorAll(":scope > .md, :scope > .thought > .md")];
  const bodies = Number(Boolean(message.thought)) + Number(Boolean(message.content));
  if (parts.length !== bodies || !bodies) fill(node, message, chat.messages.indexOf(message));
  else {
    if (message.thought && parts[0].parentNode.tagName === "DETAILS") draw(parts[0], message.thought, codeBlock);
    if (message.content) draw(parts.at(-1), message.content, codeBlock);
  }
  toEnd();
}

function ended(mine) {
  const { message } = mine;
  if (message.error === "unavailable") setUp(false);
  else if (["cut", "late", "network"].includes(message.error)) { // that once, or is the model gone? The server looks, too
    watchful = Date.now() + 10000;
    look();
  }
  if (message.error === "sign_in") gate();
  keep(mine.chat);
  if (mine.chat === chat) {
    fill(mine.node, message, chat.messages.indexOf(message));
    toEnd();
  }
  buttons();
  listChats();
  say(message.error ? errorText(message.error, message.seconds) : message.stopped ? t("stopped") : `${t("model")}: ${plain(mine)}`);
  if (document.activeElement === document.body || document.activeElement === $("stop")) ask.focus({ preventScroll: true });
}

const plain = (mine) => (mine.node?.querySelector(":scope > .md")?.innerText ?? mine.message.content).slice(0, 2000);

function keep(which = chat) {
  if (!which.messages.length) return;
  if (history.save(which)) say(t(history.isKept() ? "full" : "forget"));
}

// -- the whole ------------------------------------------------------------------------------------------------------

function show() {
  box.replaceChildren(...chat.messages.map(messageNode));
  if (answering?.chat === chat) answering.node = box.lastElementChild;
  $("empty").hidden = chat.messages.length > 0;
  box.hidden = chat.messages.length === 0;
  document.title = chat.title ? `${chat.title} · ${config.title}` : config.title;
  buttons();
  listChats();
}

function buttons() {
  $("stop").hidden = !answering;
  $("send").hidden = Boolean(answering);
  $("send").disabled = !ask.value.trim();
}

function openChat(id) {
  const found = id ? history.load(id) : history.fresh();
  if (!found) return;
  chat = answering && answering.chat.id === id ? answering.chat : found;
  history.opened(chat.id);
  show();
  toEnd(true);
  if (!wide.matches) side(false);
  ask.focus({ preventScroll: true });
}

function listChats() {
  const all = history.list(), held = document.activeElement?.closest?.("#chats li")?.dataset.id;
  if ($("chats").querySelector("input")) return;
  $("no-chats").hidden = all.length > 0;
  $("chats").hidden = !all.length;
  $("delete-all").hidden = !all.length;
  $("chats").replaceChildren(...all.map((c) => {
    const now = c.id === chat.id;
    const item = el("li", { className: now ? "now" : "" },
      el("button", { type: "button", className: "open", title: c.title, onclick: () => openChat(c.id), ...(now ? { "aria-current": "true" } : {}) }, c.title),
      el("button", { type: "button", className: "icon", "aria-label": `${t("rename")}: ${c.title}`, title: t("rename"), onclick: () => rename(item, c) }, icon("pen")),
      el("button", { type: "button", className: "icon", "aria-label": `${t("del")}: ${c.title}`, title: t("del"), onclick: () => remove(c) }, icon("bin")));
    item.dataset.id = c.id;
    return item;
  }));
  if (held) $("chats").querySelector(`li[data-id="${CSS.escape(held)}"] .open`)?.focus();
}

function rename(item, c) {
  const field = el("input", { value: c.title, maxLength: 80, "aria-label": t("rename") });
  let over = false;
  const done = (take) => {
    if (over) return;
    over = true;
    const title = field.value.trim(), of = c.id === chat.id ? chat : history.load(c.id);
    if (take && title && of) { of.title = title; keep(of); }
    field.remove();
    show();
    $("chats").querySelector(`li[data-id="${CSS.escape(c.id)}"] .open`)?.focus();
  };
  field.onkeydown = (event) => {
    if (event.key === "Enter" && !event.isComposing) done(true);
    if (event.key === "Escape") { event.stopPropagation(); done(false); }
  };
  field.onblur = () => done(true);
  item.replaceChildren(field);
  field.select();
}

async function remove(c) {
  if (!(await sure(t("deleteTitle", c.title), t("deleteText"), t("del")))) return;
  if (answering?.chat.id === c.id) { answering.chat.messages = []; answering.controller.abort(); }
  history.drop(c.id);
  if (chat.id === c.id) openChat(); else listChats();
}

async function removeAll() {
  if (!(await sure(t("deleteAllTitle"), t("deleteText"), t("del")))) return;
  if (answering) { answering.chat.messages = []; answering.controller.abort(); }
  history.dropAll();
  openChat();
}

function side(open, byHand = true) {
  const was = !$("side").hidden;
  $("side").hidden = !open;
  $("veil").hidden = !open || wide.matches;
  $("main").inert = open && !wide.matches;
  $("side-open").setAttribute("aria-expanded", String(open));
  if (byHand && wide.matches) history.settings({ side: open });
  if (byHand && open && !wide.matches) $("side-close").focus();
  if (byHand && was && !open) $("side-open").focus();
}

// -- is the model there? ----------------------------------------------------------------------------------------------

let looking = 0, watchful = 0;
function setUp(now, offline = false) {
  const before = up;
  up = now;
  $("state").classList.toggle("down", !now);
  $("state-text").textContent = now ? "" : t("away");
  $("state").title = now ? t("available") : "";
  $("banner").hidden = now;
  $("banner-title").textContent = offline ? t("offline") : t("downTitle");
  $("banner-text").textContent = t("downText");
  if (before !== null && before !== now) say(now ? t("back") : $("banner-title").textContent);
  clearTimeout(looking);
  looking = setTimeout(look, now && Date.now() > watchful ? 30000 : 1500);
  toEnd();
}

async function look() {
  if (document.hidden) { looking = setTimeout(look, 5000); return; }
  try { setUp((await stream.get("api/status")).model); } catch { setUp(false, true); }
}

// -- signing in -----------------------------------------------------------------------------------------------------

const given = /^#code=(.+)$/.exec(location.hash)?.[1]; // a link may bring the code; a part behind # goes to no server
if (given) window.history.replaceState(null, "", location.pathname);

async function signIn() {
  if (config.sign_in !== "code" || config.signed_in) return;
  try {
    if (given) { await stream.post("api/sign-in", { code: decodeURIComponent(given) }); config.signed_in = true; }
  } catch { /* as if there were none */ }
  if (!config.signed_in) gate();
}

function gate() { if (!$("gate").open) { $("gate").showModal(); $("code").focus(); } }

async function enter(event) {
  event.preventDefault();
  try {
    await stream.post("api/sign-in", { code: $("code").value });
    $("code").value = $("gate-error").textContent = "";
    config.signed_in = true;
    $("gate").close();
    ask.focus();
  } catch (error) {
    $("gate-error").textContent = errorText(error.code, error.seconds);
    $("code").select();
  }
}

// -- the beginning --------------------------------------------------------------------------------------------------

function dress() {
  const { theme, lang } = history.settings();
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  choose(lang);
  $("language").value = language();
  $("theme").value = theme ?? "auto";
  ask.placeholder = t("ask");
}

const shortcuts = {
  KeyN: () => openChat(),
  KeyH: () => side($("side").hidden),
  KeyR: () => { if (chat.messages.at(-1)?.role === "assistant") retry(chat.messages.length - 1); },
  KeyJ: () => ask.focus(),
  KeyK: () => $("keys").showModal(),
};

function keys(event) {
  const withAlt = event.altKey && !event.ctrlKey && !event.metaKey; // a letter alone is what dictation sends (WCAG 2.1.4)
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (!$("side").hidden && !wide.matches) side(false);
    else if (answering) answering.controller.abort();
  } else if (withAlt && event.code in shortcuts) { event.preventDefault(); shortcuts[event.code](); }
}

function submit(event) {
  event?.preventDefault();
  const text = ask.value;
  if (!text.trim() || answering) return;
  if (new TextEncoder().encode(JSON.stringify(text)).length > config.bytes - 1000) { say(t("long")); ask.setCustomValidity(t("long")); ask.reportValidity(); return; }
  ask.value = "";
  grow(ask);
  question(text);
}

function listen() {
  $("form").onsubmit = submit;
  $("stop").onclick = () => answering?.controller.abort();
  ask.oninput = () => { ask.setCustomValidity(""); grow(ask); buttons(); };
  ask.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches) submit(event);
    if (event.key === "ArrowUp" && !ask.value && !answering) {
      const last = chat.messages.findLastIndex((m) => m.role === "user");
      if (last >= 0) { event.preventDefault(); edit(last); }
    }
  };
  for (const id of ["new", "new-2"]) $(id).onclick = () => openChat();
  $("side-open").onclick = () => side($("side").hidden);
  $("side-close").onclick = $("veil").onclick = () => side(false);
  $("down").onclick = () => toEnd(true);
  $("keys-open").onclick = () => $("keys").showModal();
  $("delete-all").onclick = removeAll;
  $("sign-out").onclick = async () => { await stream.post("api/sign-out", {}).catch(() => {}); location.reload(); };
  $("language").onchange = () => { history.settings({ lang: $("language").value }); dress(); setUp(up ?? true); show(); };
  $("theme").onchange = () => { history.settings({ theme: $("theme").value }); dress(); };
  $("gate-form").onsubmit = enter;
  $("gate").oncancel = (event) => event.preventDefault();
  scroll.onscroll = () => {
    stuck = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
    $("down").hidden = stuck;
  };
  addEventListener("keydown", keys);
  addEventListener("pagehide", () => { if (answering) { answering.message.stopped = true; keep(answering.chat); } });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  addEventListener("online", look);
  wide.onchange = () => side(wide.matches && history.settings().side !== false, false);
  history.onChange((id) => {
    if (id === chat.id && !answering) { const other = history.load(id); if (other) { chat = other; show(); } } else listChats();
  });
}

async function begin() {
  dress();
  listen();
  const last = history.opened();
  chat = (last && history.load(last)) || chat;
  side(wide.matches && history.settings().side !== false, false);
  show();
  toEnd(true);
  if (!touch.matches) ask.focus();
  try {
    config = { ...config, ...(await stream.get("api/config")) };
  } catch { setUp(false, true); setTimeout(begin2, 2000); return; }
  ready();
}

async function begin2() {
  try { config = { ...config, ...(await stream.get("api/config")) }; ready(); } catch { setUp(false, true); setTimeout(begin2, 2000); }
}

async function ready() {
  $("title").textContent = config.title;
  $("note").textContent = config.note;
  $("sign-out").hidden = config.sign_in !== "code";
  document.title = chat.title ? `${chat.title} · ${config.title}` : config.title;
  setUp(config.model);
  await signIn();
  document.body.dataset.ready = "";
}

begin();
