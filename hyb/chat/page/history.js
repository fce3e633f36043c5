// The chats, in this browser only. Each has a key of its own, so that two open pages don't write over one another.

const PREFIX = "hyb.chat.", SETTINGS = "hyb.settings";
let memory = new Map(), kept = true;

try { localStorage.setItem("hyb.probe", "1"); localStorage.removeItem("hyb.probe"); } catch { kept = false; }

export const isKept = () => kept;
const read = (key) => { try { return kept ? localStorage.getItem(key) : memory.get(key) ?? null; } catch { return null; } };
const remove = (key) => { memory.delete(key); try { localStorage.removeItem(key); } catch { /* not kept */ } };
const keys = () => (kept ? Object.keys(localStorage) : [...memory.keys()]).filter((k) => k.startsWith(PREFIX));

/** Write, and when there is no space remove the oldest chats until there is. True when some were removed. */
function write(key, value) {
  if (!kept) { memory.set(key, value); return false; }
  for (let removed = false; ; removed = true) {
    try { localStorage.setItem(key, value); return removed; } catch {
      const oldest = list().filter((c) => PREFIX + c.id !== key).at(-1);
      if (!oldest) { kept = false; memory.set(key, value); return true; }
      remove(PREFIX + oldest.id);
    }
  }
}

function parsed(text) {
  try {
    const chat = JSON.parse(text);
    const good = chat && typeof chat.id === "string" && typeof chat.title === "string" && Array.isArray(chat.messages)
      && chat.messages.every((m) => (m?.role === "user" || m?.role === "assistant") && typeof m.content === "string");
    return good ? chat : null;
  } catch { return null; }
}

/** All chats, the last used first. */
export const list = () => keys().map((k) => parsed(read(k))).filter(Boolean).sort((a, b) => b.used - a.used);
export const load = (id) => parsed(read(PREFIX + id));
export const drop = (id) => remove(PREFIX + id);
export const dropAll = () => keys().forEach(remove);
export const save = (chat) => write(PREFIX + chat.id, JSON.stringify(chat));
export const fresh = () => ({ v: 1, id: crypto.getRandomValues(new Uint32Array(3)).join("-"), title: "", used: Date.now(), messages: [] });

export function settings(change) {
  let now = {};
  try { now = JSON.parse(read(SETTINGS)) ?? {}; } catch { /* as if there were none */ }
  if (change) { now = { ...now, ...change }; write(SETTINGS, JSON.stringify(now)); }
  return now;
}

/** The chat that this page has open; it outlives a reload. */
export function opened(id) {
  try {
    if (id) sessionStorage.setItem("hyb.open", id);
    return sessionStorage.getItem("hyb.open");
  } catch { return null; }
}

export function onChange(call) {
  addEventListener("storage", (event) => { if (!event.key || event.key.startsWith(PREFIX)) call(event.key?.slice(PREFIX.length)); });
}
