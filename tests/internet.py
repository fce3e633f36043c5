"""Four machines and what runs on them: a stranger's browser, the public namespace, a home's router, the private host.

    visitor 198.51.100.10–60 ── 198.51.100.1 public 203.0.113.1 ── 203.0.113.2 gateway 10.20.30.1 ── 10.20.30.2 private
    Chromium, users                  NGINX, chat app, link                NAT                         model, link

The private host has one route, to the public machine's address. Nobody has a route to it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyb.certificates import make_ca, make_leaf
from tests.chat_app import until
from tests.hyb import Hyb
from tests.netns import Machine, addresses, cable
from tests.tunnel import Tunnel

PAGE = "chat.apps.example.com"
PUBLIC_TO_WORLD, PUBLIC_TO_HOMES = "198.51.100.1", "203.0.113.1"
GATEWAY, PRIVATE = "203.0.113.2", "10.20.30.2"
VISITORS = range(10, 61)
LINKED = "hyb-inter-router-chat.apps.example.com"
MODEL_PORT, LINK_PORT = 8000, 55671

CHAT = {"title": "Ask Nimbrel", "temperature": 0, "queue": 32, "max_tokens": 400}
"""What an operator adds to the settings that `hyb deploy` writes."""
IMAGE = f"registry.example.com/hyb-chat@sha256:{'0' * 64}"


class Internet:
    """All of it, running. `hyb` has a store with the quickstart in it; its home is the private host's."""

    def __init__(self, hyb: Hyb, folder: Path) -> None:
        self.hyb, self.folder = hyb, folder
        names, public = {PAGE: PUBLIC_TO_WORLD, LINKED: PUBLIC_TO_HOMES}, folder / "public"
        self.site = public / "etc-nginx"
        shutil.copytree("/etc/nginx", self.site, symlinks=True)
        mounts = {"/etc/nginx": self.site, "/var/log/nginx": public}
        self.visitor = Machine("visitor", folder / "visitor", names)
        self.public = Machine("public", public, {**names, "llm": "127.0.0.1"}, mounts)
        self.gateway = Machine("gateway", folder / "gateway", {})
        self.private = Machine("private", folder / "private", names)
        self.machines = (self.visitor, self.public, self.gateway, self.private)
        self.model: subprocess.Popen[bytes] | None = None
        self.chat: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        """Cables, the model, the link, the chat app and NGINX, in that order, until the page is ready."""
        self._wire()
        self.start_model()
        self.write_link()
        self.tunnel = Tunnel(self.private, self.public, PUBLIC_TO_HOMES)
        self.tunnel.apply_public(self.openshift)
        self.tunnel.apply_private(self.link / "private")
        self._deploy()
        self.start_chat()
        self.nginx = self.public.start("nginx.log", "nginx", "-g", "daemon off;")
        self.ready()
        assert self.chat
        self.fresh = measured(self.chat.pid)

    def _wire(self) -> None:
        v, p, g, h = self.machines
        for one, other in ((v, p), (p, g), (g, h)):
            cable(one, other)
        v.address("public", *addresses("198.51.100", VISITORS))
        p.address("visitor", f"{PUBLIC_TO_WORLD}/24")
        p.address("gateway", f"{PUBLIC_TO_HOMES}/24")
        g.address("public", f"{GATEWAY}/24")
        g.address("private", "10.20.30.1/24")
        h.address("gateway", f"{PRIVATE}/24")
        v.ok("ip", "route", "add", "default", "via", PUBLIC_TO_WORLD)
        h.ok("ip", "route", "add", PUBLIC_TO_HOMES, "via", "10.20.30.1")
        g.ok("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        g.ok("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "public", "-j", "MASQUERADE")
        # As a Route does: what comes for the link's host goes to the router's own port, TLS untouched.
        to_router = ("-d", PUBLIC_TO_HOMES, "-p", "tcp", "--dport", "443", "-j", "DNAT")
        router = f"{PUBLIC_TO_HOMES}:{LINK_PORT}"
        p.ok("iptables", "-t", "nat", "-A", "PREROUTING", *to_router, "--to-destination", router)

    # -- the private host ----------------------------------------------------------------------------------------

    def run_hyb(self, *arguments: str) -> str:
        """`hyb` on the private host, which must succeed."""
        return self.private.ok(sys.executable, "-m", "hyb", *arguments, env=self.hyb.env)

    def start_model(self) -> None:
        """`hyb serve`, until it says that it is ready."""
        command = ("serve", "quickstart/gguf", "--name", "quickstart", "--port", str(MODEL_PORT))
        self.model = self.private.start("model.log", sys.executable, "-m", "hyb", *command, env=self.hyb.env)

        def served() -> bool:
            assert self.model and self.model.poll() is None, self.private.log("model.log")
            return any(found["name"] == "quickstart" for found in json.loads(self.run_hyb("ps", "--json")))

        until(served, 90, "the model is not served")
        self.key = Path(json.loads(self.run_hyb("ps", "--json"))[0]["key_path"]).read_text().strip()

    def stop_model(self) -> None:
        """As ^C or a reboot does."""
        assert self.model
        self.private.end(self.model)

    def write_link(self) -> None:
        """`hyb link` on the private host; `openshift/` is carried to the public one."""
        self.link = self.private.folder / "hyb-link"
        self.run_hyb("link", "quickstart/van", "--out", str(self.link))
        self.openshift = self.link / "openshift"

    def revoke(self) -> None:
        """All certificates that there are become worthless; both folders get new ones."""
        self.run_hyb("link", "revoke", self.credentials.name, "--out", str(self.link))

    @property
    def credentials(self) -> Path:
        """What hyb keeps of the link, on the private host alone."""
        return next((self.hyb.home / "data" / "hyb" / "credentials" / "link").iterdir())

    # -- the public namespace ------------------------------------------------------------------------------------

    def _deploy(self) -> None:
        """`hyb deploy` for a host without a cluster, then section 4 of its APPLY.md."""
        self.deployed = self.folder / "deploy"
        self.run_hyb("deploy", str(self.link), "--image", IMAGE, "--host", PAGE, "--out", str(self.deployed))
        now = datetime.now(UTC)
        ca = make_ca("a page's authority", 30, now)
        page = make_leaf(ca, PAGE, 30, now, hosts=[PAGE])
        (self.folder / "page-ca.crt").write_bytes(ca.certificate)
        (self.site / "tls").mkdir()
        (self.site / "tls" / f"{PAGE}.crt").write_bytes(page.certificate)
        (self.site / "tls" / f"{PAGE}.key").write_bytes(page.key)
        shutil.copy(self.deployed / "host" / "nginx.conf", self.site / "conf.d" / "chat.conf")

    def start_chat(self) -> None:
        """The app as its container runs it, with the settings of `host/chat.env`."""
        key = "install -D -m 600 /dev/stdin /run/secrets/hyb/model/api-key"
        self.public.ok("sh", "-c", key, input=self.key)
        lines = (self.deployed / "host" / "chat.env").read_text().splitlines()
        env = {k: v for k, v in self.hyb.env.items() if not k.startswith("HYB_")}
        env |= dict(line.split("=", 1) for line in lines)
        env |= {f"HYB_CHAT_{name.upper()}": str(value) for name, value in CHAT.items()}
        self.chat = self.public.start("chat.log", sys.executable, "-m", "hyb.chat", env=env)

    def let_go(self) -> None:
        """Have NGINX close the connections that it keeps to the chat app, as at each reload."""
        self.nginx.send_signal(signal.SIGHUP)

    def status(self) -> str:
        """What the chat app's readiness says."""
        return self.reach(self.public, "http", "http://127.0.0.1:9090/ready")

    def ready(self, seconds: float = 60) -> None:
        """Wait until the model is there for the public side, and the chat app knows it."""
        health = "http://llm:8000/health"
        until(lambda: self.reach(self.public, "http", health) == "200", seconds, "the link or the model is down")
        until(lambda: self.status() == "200", seconds, "the chat app is not ready")

    def heal(self) -> None:
        """Mend what a test broke, or left broken when it failed, and wait until all works."""
        self.gateway.ok("ip", "link", "set", "public", "up")
        if not self.model or self.model.poll() is not None:
            self.start_model()
        if not self.tunnel.is_as(self.openshift, self.link / "private"):
            self.tunnel.apply_public(self.openshift)
            self.tunnel.apply_private(self.link / "private")
        self.ready()

    # -- anybody -------------------------------------------------------------------------------------------------

    def reach(self, machine: Machine, *arguments: str | Path) -> str:
        """What `tests.probe` says on that machine."""
        return machine.ok(sys.executable, "-m", "tests.probe", *arguments).strip()

    def check(self, key: str = "") -> tuple[int, str]:
        """`hyb link check` of the public side, which knows the address and the key: (exit code, what it said)."""
        path = self.public.folder / "check.key"
        path.touch(mode=0o600)
        path.write_text(key or self.key)
        command = ("link", "check", "--url", "http://llm:8000/v1", "--key-file", path)
        done = self.public.run(sys.executable, "-m", "hyb", *command, env=Hyb(self.public.folder / "home").env)
        return done.returncode, done.stdout

    def logs(self) -> dict[str, str]:
        """All that the programs wrote down."""
        return {
            str(p.relative_to(self.folder)): p.read_text(errors="replace")
            for m in self.machines
            for p in m.folder.glob("*.log")
        }


@contextlib.contextmanager
def internet(hyb: Hyb, folder: Path) -> Iterator[Internet]:
    """Built, and taken down in the end whatever happens."""
    found = Internet(hyb, folder)
    try:
        found.build()
        yield found
    except BaseException:
        for name, text in found.logs().items():
            print(f"== {name}\n{text[-2000:]}")
        raise
    finally:
        found.private.close()
        for machine in found.machines[:3]:
            machine.close(signal.SIGKILL)  # the chat app would drain for ten seconds


def browser_program(machine: Machine, ca: Path) -> Path:
    """A program that starts Chromium on `machine`, in a home where its user has trusted `ca`.

    Chromium is told to trust the page's authority as a person would, by its own store of certificates: so chain, name
    and dates are checked, which flags that pass over errors would not do.
    """
    home = machine.folder / "browser"
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    subprocess.run(["certutil", "-N", "--empty-password", "-d", f"sql:{store}"], check=True)
    command = ["certutil", "-A", "-d", f"sql:{store}", "-n", "page", "-t", "C,,", "-i", str(ca)]
    subprocess.run(command, check=True)
    program = machine.folder / "chromium"
    line = " ".join(machine.inside("env", f"HOME={home}", f"XDG_DATA_HOME={home}/.local/share", "chromium", cwd=home))
    program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    program.chmod(0o755)
    return program


def measured(pid: int) -> dict[str, Any]:
    """Of a process: resident memory in MiB, open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return {"rss": rss, "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}
