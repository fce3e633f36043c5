"""Who we are to a registry: the credentials of containers-auth.json(5) and Docker, and the bearer token flow.

Files are looked at in skopeo's order; a credential helper (`docker-credential-NAME`) is a program of the user's. What
is found goes into a header of the registry that it is for, and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyb import engine
from hyb.errors import Exit, HybError
from hyb.render import names

if TYPE_CHECKING:
    import httpx2

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"  # what Docker's own files call the hub
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"|(\w+)=([^\s",]+)')


@dataclass(frozen=True)
class Credential:
    """A user and a password, or an identity token (OAuth2 refresh token)."""

    user: str = ""
    secret: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header of HTTP basic authentication."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def files(environ: Mapping[str, str]) -> list[Path]:
    """Where credentials may lie, in the order of skopeo: the file that the user names is the only one."""
    if named := environ.get("REGISTRY_AUTH_FILE"):
        return [Path(named)]
    home = Path(environ.get("HOME") or Path.home())
    runtime = environ.get("XDG_RUNTIME_DIR")
    return [
        Path(runtime) / "containers/auth.json" if runtime else Path(f"/run/containers/{os.getuid()}/auth.json"),
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    ]


def find(host: str, repository: str, environ: Mapping[str, str]) -> Credential | None:
    """The credential for a repository: that of the longest key that fits, from the first file that has one.

    Raises HybError (exit 3) for a file that can't be read, exit 5 for a helper that fails.
    """
    for path in files(environ):
        config = _read(path)
        for key in _keys(host, repository):
            if found := _of_key(config, key, path):
                return found
    return None


def _keys(host: str, repository: str) -> Iterator[str]:
    """`host/a/b`, `host/a`, `host`, and as Docker writes a registry."""
    parts = repository.split("/")
    for count in range(len(parts), -1, -1):
        yield "/".join([host, *parts[:count]])
    yield from (f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    if host == DOCKER_HUB:
        yield _HUB_KEY


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HybError(f"the credentials in `{path}` can't be read: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(k) or {}, dict) for k in ("auths", "credHelpers")):
        raise HybError(f"`{path}` is no file of registry credentials", hint="`podman login` writes one")
    return found


def _of_key(config: Mapping[str, Any], key: str, path: Path) -> Credential | None:
    entry = (config.get("auths") or {}).get(key)
    if isinstance(entry, dict):
        if entry.get("identitytoken"):
            return Credential(identity=str(entry["identitytoken"]))
        if entry.get("auth"):
            return _decoded(str(entry["auth"]), key, path)
    helper = (config.get("credHelpers") or {}).get(key) or (config.get("credsStore") if entry is not None else "")
    return _asked(str(helper), key) if helper else None


def _decoded(text: str, key: str, path: Path) -> Credential:
    try:
        user, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, colon, secret = "", "", ""
    if not colon:
        raise HybError(f"`{path}` has no whole credential for `{key}`", hint=f"`podman login {key}` writes it anew")
    return Credential(user, secret.rstrip("\0"))


def _asked(helper: str, key: str) -> Credential | None:
    """Ask a credential helper; it speaks JSON on stdin and stdout."""
    if not re.fullmatch(r"[\w.-]+", helper):
        raise HybError(f"`{helper}` is no name of a credential helper")
    program = f"docker-credential-{helper}"
    done = engine.run([program, "get"], stdin=key.encode(), check=False, timeout=60)
    if done.returncode:
        said = (done.stdout or done.stderr).decode(errors="replace").strip()
        if "credentials not found" in said:
            return None
        raise HybError(
            f"`{program}` failed with status {done.returncode}", details=said.splitlines()[-3:], code=Exit.BELOW
        )
    try:
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise HybError(f"`{program}` gave no credential that can be read", code=Exit.BELOW) from error
    return Credential(identity=secret) if user == "<token>" else Credential(user, secret)


# -- the token flow ------------------------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """True for this machine's own address, with or without a port."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return names.is_loopback(name.strip("[]"))


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """(scheme, parameters) of a WWW-Authenticate header, both in lower case."""
    scheme, _, rest = header.strip().partition(" ")
    return scheme.lower(), {(m[1] or m[3]).lower(): m[2] if m[1] else m[4] for m in _PARAMETER.finditer(rest)}


@dataclass
class Login:
    """Signs requests to one registry, and to no other host. `scopes`: what a token is asked for; `plain`: the user
    chose to speak without TLS; `origin`: the address that requests are signed for."""

    host: str
    credential: Credential | None
    scopes: tuple[str, ...]
    plain: bool
    origin: bytes = b""
    header: str = field(default="", repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Send with what we have; when the registry asks who we are, say it and send again, once."""
        sent, ours = self.header, request.url.netloc == self.origin
        if sent and ours:
            request.headers["Authorization"] = sent
        response = yield request
        if response.status_code != 401 or not ours or response.url.netloc != self.origin:
            return  # done, or refused by another host that the registry sent us to
        with self.lock:
            if self.header == sent:  # no other thread was faster
                scheme, given = challenge(response.headers.get("WWW-Authenticate", ""))
                if scheme == "basic" and self.credential and self.credential.user:
                    self.header = self.credential.basic
                elif scheme == "bearer" and given.get("realm"):
                    answer = yield self._token_request(given)
                    answer.read()
                    self.header = self._bearer(answer)
        if self.header and self.header != sent:
            request.headers["Authorization"] = self.header
            yield request

    def _token_request(self, given: Mapping[str, str]) -> httpx2.Request:
        import httpx2

        realm = httpx2.URL(given["realm"])
        if realm.scheme != "https" and not (self.plain or is_loopback(realm.netloc.decode())):
            raise HybError(
                f"`{self.host}` wants the password sent to `{realm.scheme}://{realm.host}`, which is not encrypted",
                hint="mend the registry's token address; hyb sends credentials over https only",
                code=Exit.BELOW,
            )
        asked = {"service": given["service"]} if "service" in given else {}
        if self.credential and self.credential.identity:
            form = {**asked, "grant_type": "refresh_token", "client_id": "hyb", "scope": " ".join(self.scopes)}
            return httpx2.Request("POST", realm, data={**form, "refresh_token": self.credential.identity})
        query: Any = [*realm.params.multi_items(), *asked.items(), *(("scope", s) for s in self.scopes)]
        headers = {"Authorization": self.credential.basic} if self.credential else {}
        return httpx2.Request("GET", realm, params=query, headers=headers)

    def _bearer(self, answer: httpx2.Response) -> str:
        if answer.status_code in (400, 401, 403):
            raise refused(self.host, answer.status_code, bool(self.credential))
        try:
            found = answer.json()
            token = str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HybError(
                f"the token service of `{self.host}` gave no token ({answer.status_code})", code=Exit.BELOW
            ) from error
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise HybError(f"the token service of `{self.host}` gave no token that can be sent", code=Exit.BELOW)
        return f"Bearer {token}"


def refused(host: str, status: int, known: bool) -> HybError:
    """The error for a registry that does not let us in."""
    if known:
        return HybError(
            f"`{host}` refused the credentials it was given ({status})",
            hint=f"`podman login {host}` with an account that may do this; then run it again",
        )
    return HybError(
        f"`{host}` wants to know who asks ({status})",
        hint=f"`podman login {host}` writes what hyb reads, too; or name a file in `REGISTRY_AUTH_FILE`",
    )


def signer(login: Login) -> httpx2.Auth:
    """`login` as the HTTP library takes it."""
    import httpx2

    class Signer(httpx2.Auth):
        def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
            yield from login.flow(request)

    return Signer()
