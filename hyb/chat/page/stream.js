// Asking the server: JSON there, server-sent events back.

export class Refused extends Error {
  constructor(code, seconds) { super(code); this.code = code; this.seconds = seconds; }
}

async function refusal(answer) {
  let error = {};
  try { error = (await answer.json()).error ?? {}; } catch { /* not our server's words */ }
  return new Refused(error.code ?? (answer.status >= 502 ? "network" : "other"), error.retry_after ?? 0);
}

export async function post(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("network");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout?.(8000) });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

/** The events of an answer. Ends with the event `end`; anything else is a Refused. */
export async function* ask(messages, signal) {
  const reader = (await post("api/chat", { messages }, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let part;
      try { part = await reader.read(); } catch (error) { throw error.name === "AbortError" ? error : new Refused("network"); }
      if (part.done) throw new Refused("network");
      const events = (rest + part.value).split("\n\n");
      rest = events.pop();
      for (const text of events) {
        if (!text.startsWith("data: ")) continue;
        const event = JSON.parse(text.slice(6));
        if (event.type === "error") throw new Refused(event.code, event.retry_after ?? 0);
        yield event;
        if (event.type === "end") return;
      }
    }
  } finally { reader.cancel().catch(() => {}); }
}
