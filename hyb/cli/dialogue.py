"""The chat on a terminal: lines in, answers out, commands between. `hyb.serving.terminal` says what a line means."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyb import fs
from hyb.cli.chat import Screen, Stopped, read_file, stream
from hyb.cli.output import show_error
from hyb.errors import HybError
from hyb.places import data_home
from hyb.printable import printable
from hyb.serving import terminal
from hyb.serving.answer import Timing
from hyb.serving.client import Client
from hyb.serving.endpoint import Endpoint
from hyb.serving.terminal import Conversation

QUOTES = '"""'
KEPT = 1000  # lines of history


class Dialogue:
    """One chat: the conversation, and what `/commands` may change."""

    def __init__(self, client: Client, body: dict[str, Any], talk: Conversation, *, think: bool, history: bool) -> None:
        self.client, self.body, self.talk, self.think = client, body, talk, think
        self.path = data_home(os.environ) / "chat_history" if history else None
        self.colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.timing: Timing | None = None
        self.unanswered: tuple[Conversation, str] | None = None

    def run(self, found: Endpoint) -> None:
        """Until ^D or `/quit`."""
        self._say(f"{self.body['model']} at {found.address.url}; /help lists the commands, ^D ends")
        with _lines(self.path) as keep:
            while True:
                try:
                    line = self._line()
                    keep()
                    if line.strip() and not self._do(line.strip()):
                        return
                except EOFError:
                    self._say("")
                    return
                except KeyboardInterrupt:  # at the prompt: a fresh line
                    self._say("")
                except HybError as error:
                    show_error(error, as_json=False)

    def _line(self) -> str:
        name = printable(str(self.body["model"]))
        prompt = f"\x01\x1b[1m\x02{name}>\x01\x1b[0m\x02 " if self.colour else f"{name}> "
        line = input(prompt)
        if not line.startswith(QUOTES):
            return line
        lines = [line.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(input("... "))
        return "\n".join(lines).rstrip().removesuffix(QUOTES)

    def _do(self, line: str) -> bool:
        """One line; False when it ends the chat."""
        called = terminal.command(line)
        if called is None:
            self._ask(self.talk, line.removeprefix("/") if line.startswith("//") else line)
            return True
        if called[0] == "quit":
            return False
        getattr(self, f"_{called[0]}")(called[1])
        return True

    def _ask(self, before: Conversation, question: str) -> None:
        """Ask. An answer that fails leaves the chat as it was; one that is stopped is kept as far as it came."""
        self.unanswered = before, question
        asked = before.ask(question)
        dim = self.colour and sys.stdout.isatty()
        screen = Screen(sys.stdout, thoughts=sys.stdout if self.think else None, dim=dim)
        try:
            answer = stream(self.client, self.body, asked, screen)
        except Stopped as stopped:
            answer = stopped.answer
            self._faint("stopped" if answer.text else "stopped before an answer came; /retry asks again")
        if answer.text or answer.finish:
            self.talk, self.unanswered = asked.answered(answer), None
        if answer.finish:
            self.timing = answer.timing
            self._faint(terminal.brief(answer.timing))
            if answer.finish == "length":
                self._faint("cut: it reached the most tokens allowed (or the context is full: /clear)")

    def _say(self, text: str) -> None:
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()

    def _faint(self, text: str) -> None:
        sys.stdout.write(f"\x1b[2m{text}\x1b[0m\n" if self.colour else text + "\n")
        sys.stdout.flush()

    # -- the commands, each called as `/name argument` ----------------------------------------------------------------

    def _help(self, _: str) -> None:
        self._say(terminal.help_text())

    def _system(self, text: str) -> None:
        if text:
            self.talk = Conversation("" if text == "-" else text, self.talk.said)
        self._say(f"system prompt: {self.talk.system or 'none'}")

    def _adapter(self, name: str) -> None:
        known = self.client.models()
        if name and name not in known:
            listed = ", ".join(f"`{k}`" for k in known)
            raise HybError(f"the server has no model or adapter `{name}`", hint=f"it has {listed or 'none'}")
        self.body["model"] = name or self.body["model"]
        self._say("\n".join(f"{'*' if k == self.body['model'] else ' '} {k}" for k in known))

    def _think(self, word: str) -> None:
        if word not in ("", "on", "off"):
            raise HybError(f"`/think` is on or off, not `{word}`")
        self.think = word == "on" if word else not self.think
        self._say(f"the reasoning is {'shown' if self.think else 'hidden'}")

    def _stats(self, _: str) -> None:
        self._say(terminal.stats(self.timing, self.talk))

    def _retry(self, _: str) -> None:
        before, question = self.unanswered or self.talk.before_last_question()
        if not question:
            raise HybError("nothing was asked yet")
        self._ask(before, question)

    def _clear(self, _: str) -> None:
        self.talk, self.timing, self.unanswered = Conversation(self.talk.system), None, None
        self._say("forgotten")

    def _save(self, name: str) -> None:
        path = _path(name, "/save chat.md")
        text = terminal.write(self.talk, str(self.body["model"]), path.suffix)
        with fs.explained(f"can't write `{path}`"):
            fs.write_atomic(path, text.encode(), mode=0o600)
        self._say(f"{len(self.talk)} messages in {path}")

    def _load(self, name: str) -> None:
        path = _path(name, "/load chat.md")
        self.talk, self.timing, self.unanswered = terminal.read(read_file(path), path.suffix), None, None
        self._say(f"{len(self.talk)} messages from {path}")


def _path(name: str, example: str) -> Path:
    if not name:
        raise HybError("name a file", hint=f"`{example}`")
    return Path(name).expanduser()


@contextlib.contextmanager
def _lines(path: Path | None) -> Iterator[Any]:
    """Line editing, and the history in a file of mode 0600; gives what keeps the line that was read last."""
    try:
        import readline
    except ImportError:  # a Python without it: lines can't be edited, everything else works
        yield lambda: None
        return
    readline.set_completer(_complete)
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete")
    readline.clear_history()
    if path is None:
        yield lambda: None
        return
    with fs.explained(f"can't keep the history in `{path}`", "`--no-history` does without it"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if len(lines) > 2 * KEPT or not path.exists() or path.stat().st_mode & 0o077:
            fs.write_atomic(path, b"".join(lines[-KEPT:]), mode=0o600)
        readline.read_history_file(path)
    seen = readline.get_current_history_length()

    def keep() -> None:
        nonlocal seen
        now = readline.get_current_history_length()
        if now > seen:
            with contextlib.suppress(OSError):  # a full disk must not end the chat
                readline.append_history_file(now - seen, path)
        seen = now

    yield keep


def _complete(text: str, state: int) -> str | None:
    """TAB after a slash."""
    hits = [f"/{name} " for name in terminal.COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []
    return hits[state] if state < len(hits) else None
