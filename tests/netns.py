"""Machines that are only namespaces: each has a network, mounts and names of its own, and ends with its holder.

A machine is a process that sleeps in new network and mount namespaces; programs join it with `nsenter`. Nothing is left
in /run/netns, in /etc or in the tests' own network: when the holder dies, cables and mounts go with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOLD = """mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && ip link set lo up || exit
while [ $# -gt 0 ]; do mount --bind "$1" "$2" || exit; shift 2; done
echo ready && exec sleep infinity"""


class Machine:
    """One machine. `names` are what its /etc/hosts knows beside localhost; `folder` has its logs.

    `mounts`: what it sees in the place of the tests' own folders, place → folder. Its /run is empty.
    """

    def __init__(
        self, name: str, folder: Path, names: Mapping[str, str], mounts: Mapping[str, Path] | None = None
    ) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in names.items()))
        self.running: list[subprocess.Popen[bytes]] = []
        pairs = [str(part) for place, own in {"/etc/hosts": hosts, **(mounts or {})}.items() for part in (own, place)]
        command = ["unshare", "--net", "--mount", "sh", "-c", HOLD, "hold", *pairs]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout and self.holder.stdout.readline() == "ready\n", f"no namespaces for {name}"

    def inside(self, *command: str | Path, cwd: Path = ROOT) -> list[str]:
        """A command line that runs `command` there. The process that is started becomes the program itself."""
        enter = ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--", "env", "-C", str(cwd)]
        return [*enter, *(str(part) for part in command)]

    def run(self, *command: str | Path, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end."""
        return subprocess.run(
            self.inside(*command), capture_output=True, text=True, check=False, timeout=timeout, **more
        )

    def ok(self, *command: str | Path, **more: Any) -> str:
        """Run a program there, insist on exit code 0, return what it printed."""
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(
        self, log: str, *command: str | Path, env: Mapping[str, str] = os.environ, cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start a program there, what it says in `folder/log`. It leads a process group, which `close` ends."""
        with (self.folder / log).open("ab") as stream:
            process = subprocess.Popen(
                self.inside(*command, cwd=cwd), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env,
                start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
        """End a started program and its process group; its exit code."""
        self.running.remove(process)
        _signal(process, number)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            return process.wait()
        finally:
            _signal(process, signal.SIGKILL)

    def log(self, name: str) -> str:
        """What a program said."""
        return (self.folder / name).read_text(errors="replace")

    def close(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End everything there, last started first, by this signal."""
        for process in reversed(self.running.copy()):
            self.end(process, number)
        with self.holder:
            self.holder.kill()

    def address(self, interface: str, *addresses: str) -> None:
        """Give an interface its addresses (`192.0.2.1/24`)."""
        for one in addresses:
            self.ok("ip", "address", "add", one, "dev", interface)
        self.ok("ip", "link", "set", interface, "up")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def cable(one: Machine, other: Machine) -> None:
    """Join two machines: each gets an interface that bears the other's name."""
    subprocess.run(
        ["ip", "link", "add", "name", other.name, "netns", str(one.holder.pid), "type", "veth",
         "peer", "name", one.name, "netns", str(other.holder.pid)],
        check=True,
    )  # fmt: skip


def addresses(network: str, numbers: Sequence[int]) -> list[str]:
    """`addresses("192.0.2", [1, 2])` is `["192.0.2.1/24", "192.0.2.2/24"]`."""
    return [f"{network}.{number}/24" for number in numbers]
