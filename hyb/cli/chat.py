"""chat: talk to a served model, on a terminal or in one shot."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.serving.answer import Answer
    from hyb.serving.client import Client
    from hyb.serving.terminal import Conversation

UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="An OpenAI-compatible base URL, in NAME's place.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="The API key of the URL; without it, $HYB_API_KEY."),
]
ERASE = "\r\x1b[K"
"""Takes away what stands in the terminal's line."""
CaOption = Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="Trust these certificates (PEM) alone.")]


@command
def chat(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="[NAME|URL]", help="As `hyb ps` shows it, or a URL.")] = "",
    question: Annotated[str, typer.Argument(metavar="[QUESTION]", help="Ask this and end.")] = "",
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="A model or adapter of the server.")] = "",
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="The system prompt.")] = "",
    load: Annotated[Path | None, typer.Option("--load", metavar="FILE", help="Go on with a chat from a file.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of an answer; 0: no limit.")] = 0,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0: the likeliest token; without it, the server's own.")
    ] = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Show the reasoning; --no-think hides it. A terminal shows it."),
    ] = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Neither read nor keep the lines typed.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve the chat page on this machine, until ^C.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The page's port; without it, a free one.")] = 0,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
) -> None:
    """Chat with a served model: answers as they come, the whole chat as context, editing and history of the lines.

    `/help` in the chat lists its commands: `/system`, `/adapter`, `/save`, `/stats`, … ^C stops an answer, ^D ends.
    With a question, or one on stdin, it answers once: the answer on stdout, everything else on stderr. A server
    elsewhere is named by its URL; its key comes from a file or from HYB_API_KEY, never from an argument.

    With `--web` the chat is a page in your browser: it prints the page's address, and ends with ^C.

    Example: hyb chat quickstart
    """
    from hyb.serving import endpoint, terminal
    from hyb.serving.client import Client

    _fitting(web, {"QUESTION": question, "--load": load, "--think": think is not None, "--no-history": no_history},
             {"--port": port, "--open": open_it})  # fmt: skip
    if url and name and not question:
        name, question = "", name
    found = endpoint.find(name, os.environ, url=url, key_file=key_file, ca=ca, offline=s.offline)
    talk = terminal.Conversation()
    if load:
        talk = terminal.read(read_file(load), load.suffix)
    talk = terminal.Conversation(system or talk.system, talk.said)
    once = bool(question) or s.json or not (sys.stdin.isatty() and sys.stdout.isatty())
    if s.dry_run:
        where = f" on a page at http://127.0.0.1:{port or 'PORT'}/" if web else ""
        plan = {"url": found.address.url, "model": model, **({"web": True, "port": port} if web else {"once": once})}
        s.show(plan, f"would chat with {found.address.url}{where}")
        return
    if warning := endpoint.unencrypted(found.address):
        s.talk(f"warning: {warning}")
    body: dict[str, Any] = {
        k: v for k, v in (("max_tokens", max_tokens or None), ("temperature", temperature)) if v is not None
    }
    with Client(found.address) as client:
        body["model"] = found.model(client, model)
        if web:
            from hyb.cli import chat_web

            limits = {"max_tokens": max_tokens, "temperature": temperature, "system": system, "port": port}
            raise SystemExit(chat_web.serve(s, found, body["model"], open_it=open_it, **limits))
        if once:
            _once(s, client, body, talk, question or sys.stdin.read().strip(), think=bool(think))
            return
        from hyb.cli.dialogue import Dialogue

        Dialogue(client, body, talk, think=think is not False, history=not no_history).run(found)


def _fitting(web: bool, terminal: dict[str, Any], page: dict[str, Any]) -> None:
    """Raise HybError where the page can't be shown, or an option means nothing in the way that is asked for."""
    from hyb import engine
    from hyb.errors import Exit, HybError

    unfit = [f"`{name}`" for name, value in (terminal if web else page).items() if value]
    if unfit:
        way = "has no meaning with `--web`" if web else "needs `--web`"
        raise HybError(f"{', '.join(unfit)} {way}", hint="`hyb chat --help` explains", code=Exit.USAGE)
    if web:
        from hyb.cli.chat_web import NEEDS

        engine.require(NEEDS, "chat", "chat --web")


def _once(s: Session, client: Client, body: dict[str, Any], talk: Conversation, question: str, *, think: bool) -> None:
    from hyb.errors import HybError
    from hyb.serving import terminal

    if not question:
        raise HybError("there is no question: stdin is empty", hint="echo 'Who are you?' | hyb chat NAME")
    screen = Screen(None if s.json else sys.stdout, thoughts=sys.stderr if think and not s.json else None)
    answer = stream(client, body, talk.ask(question), screen)
    value = {
        "model": answer.model or body["model"],
        "question": question,
        "answer": answer.text,
        "reasoning": answer.thought,
        "finish": answer.finish,
        "timing": terminal.timing_dict(answer.timing),
    }
    if s.json:
        s.show(value, "")
    else:
        s.talk(terminal.brief(answer.timing))


def read_file(path: Path) -> str:
    """The text of a file. Raises HybError."""
    from hyb import fs
    from hyb.errors import HybError

    try:
        with fs.explained(f"can't read `{path}`"):
            return path.expanduser().read_text()
    except UnicodeDecodeError as error:
        raise HybError(f"`{path}` is no text") from error


class Screen:
    """Where the pieces of an answer are shown. A terminal gets no control character of a model's."""

    def __init__(self, out: TextIO | None, *, thoughts: TextIO | None = None, dim: bool = False) -> None:
        self.out, self.thoughts = out, thoughts
        self.dim = dim
        self._last: tuple[TextIO, str] | None = None
        self._waiting = False

    def piece(self, kind: str, text: str) -> None:
        """Show a piece now."""
        from hyb.printable import printable
        from hyb.serving.answer import THOUGHT

        out = self.thoughts if kind == THOUGHT else self.out
        if out is None:
            self._wait(kind == THOUGHT)
            return
        if self._waiting:
            out.write(ERASE)
            self._waiting = False
        if self._last is None or self._last[1] != kind:
            text = self._change(out, kind) + (printable(text) if out.isatty() else text).lstrip("\n")
        elif out.isatty():
            text = printable(text)
        self._last = (out, kind)
        out.write(text)
        out.flush()

    def end(self) -> None:
        """The answer ends: so does its line."""
        if self._waiting and self.out:
            self.out.write(ERASE)
            self._waiting = False
        if self._last:
            out, _ = self._last
            out.write(("\x1b[0m" if self.dim else "") + "\n")
            out.flush()
            self._last = None

    def _wait(self, thinks: bool) -> None:
        """A sign of life while a reasoning is hidden."""
        if self.dim and self.out and thinks and not self._waiting:
            self._waiting = True
            self.out.write("\x1b[2mthinking…\x1b[0m")
            self.out.flush()

    def _change(self, out: TextIO, kind: str) -> str:
        """What stands between reasoning and answer; the reasoning is dim where that can be shown."""
        from hyb.serving.answer import THOUGHT

        apart = ""
        if self._last:
            same = self._last[0] is out
            if not same:
                self._last[0].write("\n")
            apart = "\n\n" if same else ""
        if not self.dim:
            return apart
        return ("\x1b[0m" + apart) if kind != THOUGHT else apart + "\x1b[2m"


def stream(client: Client, body: dict[str, Any], talk: Conversation, screen: Screen) -> Answer:
    """Ask, show the answer as it comes, and return it. ^C closes the connection, which frees the server's slot.

    Raises HybError, KeyboardInterrupt; `Stopped` for a ^C after something had come.
    """
    from hyb.errors import Exit, HybError
    from hyb.serving.answer import Reader

    reader = Reader(time.perf_counter())
    whole = {**body, "messages": talk.messages(), "stream_options": {"include_usage": True}}
    try:
        with contextlib.closing(client.stream("chat/completions", whole)) as events:
            for event in events:
                for kind, text in reader.push(event, time.perf_counter()):
                    screen.piece(kind, text)
        for kind, text in reader.end():
            screen.piece(kind, text)
    except KeyboardInterrupt:
        raise Stopped(reader.answer()) from None
    finally:
        screen.end()
    answer = reader.answer()
    if not answer.timing.completion_tokens:
        raise HybError(f"`{client.address.url}` sent an answer without a token", code=Exit.BELOW)
    return answer


class Stopped(KeyboardInterrupt):
    """^C in an answer; holds what had come."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
