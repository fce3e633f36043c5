"""A registry: the OCI distribution API (1.1), asked with patience.

On httpx2, which huggingface-hub brings: oras-py neither resumes nor mounts nor works in parallel, nor does it check
what it downloads. Every answer is held against the digest that was asked for. TLS is on, except on loopback or where
the user chose otherwise (`--tls-verify=false`, or `insecure = true` in registries.conf, as for skopeo and Podman).
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import time
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import hyb
from hyb import digest as dg
from hyb.artifact import INDEX, MANIFEST
from hyb.errors import Exit, HybError
from hyb.hub import download, registry_auth
from hyb.hub.download import RETRIED, TRIES

if TYPE_CHECKING:
    import httpx2

MAX_MANIFEST = 16 << 20  # bytes
TLS_VERIFY = "HYB_TLS_VERIFY"
"""Environment: `false` lets every registry of this run be spoken to without TLS, or with any certificate."""
ACCEPT = ", ".join(
    (MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json",
     "application/vnd.docker.distribution.manifest.list.v2+json")
)  # fmt: skip
_API = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True)
class Answer:
    """What a registry answered. `content`: at most MAX_MANIFEST bytes and one."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    url: httpx2.URL


class Registry:
    """One repository, `host/repo`, of a registry. Use it as a context manager; several threads may share it."""

    def __init__(self, where: str, *, push: bool = False, mount_from: Collection[str] = ()) -> None:
        self.host, _, self.repository = where.partition("/")
        if self.host in _API and "/" not in self.repository:
            self.repository = f"library/{self.repository}"
        self.insecure = insecure(self.host, os.environ)
        scopes = [f"repository:{self.repository}:{'pull,push' if push else 'pull'}"]
        scopes += [f"repository:{other}:pull" for other in mount_from]
        credential = registry_auth.find(self.host, self.repository, os.environ)
        self.login = registry_auth.Login(self.host, credential, tuple(scopes), self.insecure)

    def __enter__(self) -> Registry:
        import httpx2

        self.client = httpx2.Client(
            headers={"User-Agent": f"hyb/{hyb.__version__}", "Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=httpx2.Timeout(download.patience(), connect=download.CONNECT_TIMEOUT),
            verify=not self.insecure,
            auth=registry_auth.signer(self.login),
        )
        self.base = f"{self._scheme()}://{_API.get(self.host, self.host)}/v2/"
        self.login.origin = httpx2.URL(self.base).netloc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import httpx2

        self.client.close()
        if isinstance(error, (httpx2.HTTPError, httpx2.InvalidURL)):  # no stumble, but an answer that makes no sense
            raise HybError(f"`{self.host}` is no registry that hyb understands: {error}", code=Exit.BELOW) from error

    def url(self, *parts: str) -> str:
        """The address of something in this repository."""
        return f"{self.base}{self.repository}/{'/'.join(parts)}"

    def ask(
        self,
        method: str,
        url: str,
        what: str,
        *,
        ok: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """One request, made again when the registry or the way to it stumbles.

        `what`: its object in words. Raises HybError: exit 3 for 401, 403, 404, exit 5 for all that hyb can't cure.
        """

        import httpx2

        for failures in range(1, TRIES + 1):
            try:
                answer = self.send(method, url, headers=headers, content=content)
                if answer.status_code not in ok:
                    raise self.refused(answer, what)
                return answer
            except (httpx2.TransportError, LaterError) as error:
                if failures == TRIES:
                    raise self.gave_up(error, what) from error
                time.sleep(self.pause(error, failures))
        raise AssertionError("not reached")

    def send(self, method: str, url: str | httpx2.URL, **more: Any) -> Answer:
        """One request, once. Raises httpx2.TransportError."""
        with self.client.stream(method, url, **more) as response:
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > MAX_MANIFEST:
                    break
            return Answer(response.status_code, response.headers, data[: MAX_MANIFEST + 1], response.url)

    def pause(self, error: Exception, failures: int) -> float:
        """Seconds to rest after this failure. Raises HybError for one that no patience cures."""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise HybError(
                f"the certificate of `{self.host}` is not trusted: {error}",
                hint="name your authority's certificate in `SSL_CERT_FILE`, or accept any with `--tls-verify=false`",
            ) from error
        return (error.seconds if isinstance(error, LaterError) else 0.0) or download.backoff(failures)

    def gave_up(self, error: Exception, what: str) -> HybError:
        """The error after the last try."""
        return HybError(
            f"`{self.host}` failed {TRIES} times for {what}: {str(error) or type(error).__name__}",
            hint="check the network and the registry; the same command goes on with what is missing",
            code=Exit.BELOW,
        )

    def refused(self, response: Answer, what: str) -> Exception:
        """What a status that was not expected means: LaterError when asking again may help, else a HybError."""
        status, said = response.status_code, _messages(response)
        if status in RETRIED:
            return LaterError(status, retry_after(self.host, response.headers))
        if status == 401:
            return registry_auth.refused(self.host, status, self.login.credential is not None)
        if status == 403:
            hint = f"`podman login {self.host}` with an account that may do this; then run it again"
            return HybError(f"`{self.host}` does not allow {what} (403)", hint=hint, details=said)
        if status == 404:
            hint = "check the name and the tag; some registries hide what a login would show"
            return HybError(f"`{self.host}` does not have {what} (404)", hint=hint, details=said)
        return HybError(f"`{self.host}` answered {status} for {what}", details=said, code=Exit.BELOW)

    def manifest(self, reference: str) -> tuple[str, bytes]:
        """(digest, bytes) of the manifest that a tag or digest names. Raises HybError: exit 4 for other bytes."""
        what = f"`{self.repository}{'@' if dg.is_digest(reference) else ':'}{reference}`"
        response = self.ask("GET", self.url("manifests", reference), what, headers={"Accept": ACCEPT})
        data = response.content
        found = dg.of_bytes(data)
        said = response.headers.get("Docker-Content-Digest", "")
        for wanted in (reference, said):
            if (dg.is_digest(wanted) and wanted != found) or len(data) > MAX_MANIFEST:
                raise HybError(
                    f"`{self.host}` gave other bytes than {what} has",
                    hint="the registry or a proxy holds a damaged copy; nothing of it was kept",
                    details=[f"expected {wanted}", f"got      {found}"],
                    code=Exit.CHECK,
                )
        return found, data

    def has_blob(self, digest: str) -> bool:
        """True when the repository has the blob."""
        answer = self.ask("HEAD", self.url("blobs", digest), f"blob `{digest}`", ok=(200, 404))
        return bool(answer.status_code == 200)

    def put_manifest(self, reference: str, data: bytes, media_type: str = MANIFEST) -> bool:
        """Put a manifest under a tag or its digest. True when the registry noted its `subject` by itself.

        Raises HybError: exit 4 when the registry took it for something else.
        """
        what = f"the manifest of `{self.repository}`"
        answer = self.ask("PUT", self.url("manifests", reference), what, ok=(200, 201, 202),
                          headers={"Content-Type": media_type}, content=data)  # fmt: skip
        said = answer.headers.get("Docker-Content-Digest") or dg.of_bytes(data)
        if said != dg.of_bytes(data):
            raise HybError(f"`{self.host}` says that {what} is `{said}`, not `{dg.of_bytes(data)}`", code=Exit.CHECK)
        return "OCI-Subject" in answer.headers

    def _scheme(self) -> str:
        """http where that is allowed and spoken. On loopback it is tried first, elsewhere https is."""
        import httpx2

        if not (self.insecure or registry_auth.is_loopback(self.host)):
            return "https"
        first, second = ("http", "https") if registry_auth.is_loopback(self.host) else ("https", "http")
        try:
            answer = self.client.get(f"{first}://{self.host}/v2/", auth=None)
            return second if first == "http" and answer.status_code == 400 else first
        except httpx2.ConnectError as error:
            return second if first == "https" and "SSL" in str(error) else first
        except httpx2.TransportError:
            return first


class LaterError(Exception):
    """The registry wants to be asked again, after so many seconds (0: the usual rest)."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"it answered {status}")
        self.seconds = seconds


def retry_after(host: str, headers: Mapping[str, str]) -> float:
    """Seconds that a registry asked us to wait, 0 when it did not. Raises HybError (exit 5) when they are too many."""
    text = headers.get("Retry-After", "").strip()
    seconds = float(text) if re.fullmatch(r"\d{1,9}", text) else _until(text)
    if seconds > download.LONGEST_WAIT:
        raise HybError(
            f"`{host}` asks to wait {seconds:.0f} s before it is asked again",
            hint="you are over its rate limit; with a login it may be higher (`podman login`)",
            code=Exit.BELOW,
        )
    return seconds


def _until(text: str) -> float:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def insecure(host: str, environ: Mapping[str, str]) -> bool:
    """True when the user lets this registry be spoken to without TLS, by environment or registries.conf(5).

    Raises HybError (exit 3) for a registries.conf that can't be read.
    """
    if environ.get(TLS_VERIFY, "").lower() in ("false", "0", "no"):
        return True
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
    named = environ.get("CONTAINERS_REGISTRIES_CONF")
    places = [Path(named)] if named else [home / "containers/registries.conf", Path("/etc/containers/registries.conf")]
    for path in places:
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8")).get("registry", [])
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise HybError(f"`{path}` can't be read: {error}") from error
        named_here = [e for e in entries if host in (e.get("prefix"), e.get("location"))]
        return any(e.get("insecure") is True for e in named_here)
    return False


def _messages(response: Answer) -> list[str]:
    """What a registry's error document says, a line each."""
    try:
        errors: Any = json.loads(response.content[:65536])["errors"]
        texts = [f"{e.get('code', '')}: {e.get('message', '')}".strip(": ") for e in errors]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return ["".join(c if c.isprintable() else " " for c in text)[:200] for text in texts[:5]]
