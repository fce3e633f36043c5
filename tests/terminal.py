"""A program on a pseudo-terminal, as a person at a keyboard has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence


class Terminal:
    """Starts a program; what it writes is read by `until`, what is typed is given to `type`."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:  # the child
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.execvpe(argv[0], list(argv), env)
            finally:
                os._exit(127)
        self.text = ""
        self.status: int | None = None
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.descriptor, text.encode())

    def until(self, pattern: str, seconds: float = 30) -> str:
        """Read until the text that was not looked at yet has the pattern; give what stands up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text[-2000:]!r}"
            assert self._read(), f"it ended without {pattern!r}: {self.text[-2000:]!r}"
        taken, self.text = self.text[: found.end()], self.text[found.end() :]
        return taken

    def end(self, seconds: float = 30) -> int:
        """Read to the end; the exit status."""
        stop = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < stop, f"it goes on: {self.text[-2000:]!r}"
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def _read(self) -> bool:
        """False when the program has closed its terminal."""
        if not select.select([self.descriptor], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)
