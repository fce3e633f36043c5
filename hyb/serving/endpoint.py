"""What `NAME|URL` on a command line means: a service of this machine, or any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hyb.errors import Exit, HybError
from hyb.render.names import is_loopback
from hyb.serving import live, manager
from hyb.serving.client import Address, Client, checked
from hyb.serving.service import Service

KEY_VARIABLE = "HYB_API_KEY"


@dataclass(frozen=True)
class Endpoint:
    """A server to talk to."""

    name: str
    """The service's name, or the URL's host."""
    address: Address
    service: Service | None = None
    """What is known of it, when it is one of this machine's."""

    def model(self, client: Client, asked: str = "") -> str:
        """The id of the model to ask: `asked`, the service's own, or the first that the server lists.

        Raises HybError: exit 3 for one that the server does not have, exit 5 when it can't be asked.
        """
        if self.service and not asked:
            return self.service.name
        known = client.models()
        if asked and asked not in known:
            raise HybError(f"`{self.name}` has no model `{asked}`", hint=f"it has {_list(known) or 'none'}")
        if not known:
            raise HybError(f"`{self.name}` lists no model", hint="name one with `--model`")
        return asked or known[0]


def find(
    target: str,
    environ: Mapping[str, str],
    *,
    url: str = "",
    key_file: Path | None = None,
    ca: Path | None = None,
    offline: bool = False,
) -> Endpoint:
    """The server that `target` (a name of `hyb ps`, or a URL) or `url` means; without both, the only one served.

    The key: of a service, its own; of a URL, the file `key_file`, or `HYB_API_KEY`, or none.
    Raises HybError: exit 3 when it means nothing, or nothing certain; exit 6 for another machine while `offline`.
    """
    if url or "://" in target:
        found = _remote(url or target, environ, key_file, ca)
        host = checked(found.address.url).hostname or ""
        if offline and not is_loopback(host):
            raise HybError(f"offline, and `{host}` is another machine", code=Exit.OFFLINE)
        return found
    running = {s.name: s for s in manager.ps(environ)}
    if not running:
        raise HybError(
            f"`{target}` is not being served; nothing is" if target else "nothing is being served",
            hint=f"`hyb serve {target or 'MODEL'} --detach` serves a model of the store (`hyb ls` lists them); "
            "a server elsewhere is named by its URL",
        )
    if not target and len(running) > 1:
        raise HybError(f"several models are being served: {_list(running)}", hint="name one")
    if target and target not in running:
        raise HybError(
            f"`{target}` is not being served", hint=f"being served: {_list(running)}; `hyb serve {target} --detach`"
        )
    service = running[target or next(iter(running))]
    address = live.address(service, _key(key_file or Path(service.key_path)))
    return Endpoint(service.name, replace(address, ca=str(ca)) if ca else address, service)


def unencrypted(address: Address) -> str:
    """A warning when a key would travel over a network that others can read; else empty."""
    parts = checked(address.url)
    if parts.scheme == "http" and address.key and not is_loopback(parts.hostname or ""):
        return (
            f"the key and all that is said travel to `{parts.hostname}` unencrypted: use https where others can listen"
        )
    return ""


def _remote(url: str, environ: Mapping[str, str], key_file: Path | None, ca: Path | None) -> Endpoint:
    parts = checked(url)
    whole = url.rstrip("/") if parts.path.strip("/") else url.rstrip("/") + "/v1"
    key = _key(key_file) if key_file else environ.get(KEY_VARIABLE, "").strip()
    return Endpoint(parts.netloc, Address(whole, key, str(ca or "")))


def _key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
        raise HybError(f"can't read the key file `{path}`: {why}", hint="it holds the key and nothing else") from error
    if not key:
        raise HybError(f"the key file `{path}` is empty", hint="it holds the key and nothing else")
    return key


def _list(names: object) -> str:
    return ", ".join(f"`{n}`" for n in names)  # type: ignore[attr-defined]
