"""What carries bytes where Skupper's router would: made from a link's own documents, between two machines.

It stands for the network alone. As with the router, the private side dials out to the host that its Link names, both
sides show their certificates out of the Secrets that `hyb link` wrote, the chain is checked on both and the name on the
private one (DNS names, then the CN); then the Listener's port opens on the public side and leads to the Connector's.
It also fails as the router does: when the link is down the Listener's port refuses; when the model behind a link is
down the port takes a connection and closes it without a word. No program here is ours: stunnel is the TLS, OpenSSH's
`ssh -R` inside it the many connections over one.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.netns import Machine

PUBLIC = """foreground = yes
pid =
syslog = no
debug = notice
[link]
accept = {address}:{port}
exec = /usr/sbin/sshd
execArgs = sshd -i -e -f {folder}/sshd_config
CAfile = {folder}/ca.crt
cert = {folder}/tls.crt
key = {folder}/tls.key
verifyChain = yes
sslVersionMin = TLSv1.2
TIMEOUTclose = 0
"""
SSHD = """HostKey {folder}/host_key
AuthorizedKeysFile {folder}/link_key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
AllowTcpForwarding remote
PermitListen 127.0.0.1:{port}
PermitTTY no
ClientAliveInterval 1
ClientAliveCountMax 2
"""
PRIVATE = """foreground = yes
pid =
syslog = no
debug = notice
[link]
client = yes
accept = 127.0.0.1:2022
connect = {host}:{port}
sni = {host}
checkHost = {host}
CAfile = {folder}/ca.crt
cert = {folder}/tls.crt
key = {folder}/tls.key
verifyChain = yes
sslVersionMin = TLSv1.2
TIMEOUTclose = 0
"""
DIAL = """while :; do
ssh -N -T -F {folder}/ssh_config link
sleep 0.5; done
"""
SSH = """Host link
HostName 127.0.0.1
Port 2022
User root
IdentityFile {folder}/link_key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
HostKeyAlias link
StrictHostKeyChecking yes
RemoteForward 127.0.0.1:{listen} {target}
ExitOnForwardFailure yes
ConnectTimeout 3
ServerAliveInterval 1
ServerAliveCountMax 2
LogLevel ERROR
"""


def documents(folder: Path) -> dict[str, Any]:
    """One side's documents as they would be applied: kind → document, a Secret under its name, too."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[document["kind"]] = document
            found[f"{document['kind']} {document['metadata']['name']}"] = document
    return found


def unpack(secret: dict[str, Any], folder: Path) -> None:
    """A Secret's files. As the router: only of type kubernetes.io/tls."""
    assert secret["type"] == "kubernetes.io/tls"
    for name in ("ca.crt", "tls.crt", "tls.key"):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(secret["data"][name], validate=True))


class Tunnel:
    """A link between two machines. `apply_public` and `apply_private` are what a person does with the two folders."""

    def __init__(self, private: Machine, public: Machine, address: str) -> None:
        self.private, self.public, self.address = private, public, address
        self.near, self.far = private.folder / "link", public.folder / "link"
        for folder in (self.near, self.far):
            folder.mkdir(mode=0o700)
        for key in (self.near / "link_key", self.far / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
        (self.far / "link_key.pub").write_bytes((self.near / "link_key.pub").read_bytes())
        (self.near / "known").write_text(f"link {(self.far / 'host_key.pub').read_text()}")
        self._public: list[subprocess.Popen[bytes]] = []
        self._private: list[subprocess.Popen[bytes]] = []

    def apply_public(self, folder: Path) -> None:
        """Take the documents of `openshift/`."""
        found = documents(folder)
        unpack(found[f"Secret {found['RouterAccess']['spec']['tlsCredentials']}"], self.far)
        port = found["Listener"]["spec"]["port"]
        (self.far / "sshd_config").write_text(SSHD.format(folder=self.far, port=port))
        role = next(r for r in found["RouterAccess"]["spec"]["roles"] if r["name"] == "inter-router")
        text = PUBLIC.format(folder=self.far, address=self.address, port=role["port"])
        (self.far / "stunnel.conf").write_text(text)
        self.listen = port
        self.listen_for_links()

    def listen_for_links(self) -> None:
        """Start the public side, or start it anew."""
        self._end(self.public, self._public)
        self._public = [self.public.start("link.log", "stunnel4", self.far / "stunnel.conf")]

    def apply_private(self, folder: Path) -> None:
        """Take the documents of `private/`, and dial."""
        found = documents(folder)
        unpack(found[f"Secret {found['Link']['spec']['tlsCredentials']}"], self.near)
        end = next(e for e in found["Link"]["spec"]["endpoints"] if e["name"] == "inter-router")
        text = PRIVATE.format(folder=self.near, host=end["host"], port=end["port"])
        (self.near / "stunnel.conf").write_text(text)
        target = found["Connector"]["spec"]
        target = f"{target['host']}:{target['port']}"
        (self.near / "ssh_config").write_text(SSH.format(folder=self.near, listen=self.listen, target=target))
        self.down()
        self.up()

    def is_as(self, openshift: Path, private: Path) -> bool:
        """True when it runs with the certificates of these two folders."""
        sides = ((openshift, "RouterAccess", self.far), (private, "Link", self.near))
        for folder, kind, place in sides:
            found = documents(folder)
            data = found[f"Secret {found[kind]['spec']['tlsCredentials']}"]["data"]
            if any(base64.b64decode(text) != (place / name).read_bytes() for name, text in data.items()):
                return False
        return all(p.poll() is None for p in (*self._public, *self._private)) and bool(self._public and self._private)

    def up(self) -> None:
        """Start the private side."""
        self._private = [
            self.private.start("link.log", "stunnel4", self.near / "stunnel.conf"),
            self.private.start("link.log", "sh", "-c", DIAL.format(folder=self.near)),
        ]

    def down(self) -> None:
        """End the private side."""
        self._end(self.private, self._private)

    @staticmethod
    def _end(machine: Machine, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in reversed(processes):
            machine.end(process)
        processes.clear()
