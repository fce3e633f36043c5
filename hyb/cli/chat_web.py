"""The chat page of `hyb chat --web`: the same that a namespace runs, here, for one person.

The app runs in this process, so the model's key goes from its file to the app's memory and nowhere else. Other people
of this machine reach loopback, too: the page asks for a code, new with each start, that the printed address carries
behind its `#`, a part that no browser sends to a server or names to another page.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyb.cli.session import Session

if TYPE_CHECKING:
    from hyb.chat.settings import Settings
    from hyb.serving.endpoint import Endpoint

NEEDS = ("starlette", "uvicorn", "httptools", "prometheus_client")
HOST = "127.0.0.1"
LEADS = '<!doctype html><meta charset="utf-8"><title>hyb chat</title><meta http-equiv="refresh" content="0; url={}">'
BROWSERS = ("xdg-open", "open")
"""What opens an address in the browser of the person at the screen."""


def settings_of(found: Endpoint, model: str, code: str, **more: Any) -> Settings:
    """How the app is to run for one person: patient, and no limits but the machine's."""
    from hyb.chat.settings import Settings

    of = found.address
    return Settings(
        model_url=of.url, model_socket=of.socket, ca_file=of.ca, key=of.key, model=model, host=HOST, title=found.name,
        sign_in="code", access_code=code, log="none", client_minute=0, client_parallel=64, connect_seconds=5,
        first_seconds=600, idle_seconds=120, total_seconds=3600, session_hours=24 * 365, grace_seconds=0.5, **more,
    )  # fmt: skip


def serve(s: Session, found: Endpoint, model: str, *, open_it: bool, **more: Any) -> int:
    """Serve until ^C or SIGTERM, and return the exit code. Raises HybError."""
    from hyb.chat import server

    class Talk(server.Log):
        """The events that a person wants to hear of."""

        def __call__(self, event: str, **fields: Any) -> None:
            if event == "model":
                s.talk("the model is there" if fields["available"] else f"the model is away: {fields['why']}")

    code = secrets.token_urlsafe(18)
    with contextlib.ExitStack() as end:

        def announce(port: int) -> None:
            url = f"http://{HOST}:{port}/#code={code}"
            s.show({"url": url, "port": port, "name": found.name, "model": model}, url)
            sys.stdout.flush()  # a script waits for it
            s.talk(f"{found.name} in a browser, at this address; ^C ends")
            if open_it:
                end.enter_context(_opened(s, url))

        return server.run(settings_of(found, model, code, **more), announce=announce, log=Talk(True))


@contextlib.contextmanager
def _opened(s: Session, url: str) -> Iterator[None]:
    """Open the browser by a file that leads to `url`: other people see a program's arguments, and the code is in it."""
    import tempfile

    from hyb import engine, fs

    program = next(filter(None, map(engine.which, BROWSERS)), None)
    if not program:
        s.talk(f"no browser can be opened from here (no {' or '.join(BROWSERS)}): open the address yourself")
        yield
        return
    with tempfile.TemporaryDirectory(prefix="hyb-chat-") as folder:
        page = Path(folder) / "open.html"
        fs.write_atomic(page, LEADS.format(url).encode(), mode=0o600)
        engine.spawn([program, str(page)])
        yield
