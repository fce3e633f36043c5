"""Offline as a promise: a guard inside each of hyb's Python processes, and the switches of all that hyb starts.

`guard` refuses, in this process, every connection that is neither a Unix socket nor loopback, and every look-up of a
name that is not this machine's. It is an audit hook: no library can go round it from Python, and it can't be taken
away. What native code opens it does not see; for that the tests follow whole runs with strace. It holds in each
process of hyb with `--offline` or HYB_OFFLINE, and always in workers and engines: they have no business outside.

For programs that are not Python's there are their own switches, and a proxy that is not there: curl, git, pip and
programs in Go go to 127.0.0.1 port 9, where nothing listens, and fail at once.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from hyb.errors import Exit, HybError

GUARD = "HYB_GUARD"
"""Set in the environment of workers and engines: the guard holds there, whatever the user asked for."""
NOWHERE = "http://127.0.0.1:9"
HERE = "localhost,127.0.0.1,::1"

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "USE_HUB_KERNELS": "NO",
    "TOKENIZERS_PARALLELISM": "false",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "WANDB_MODE": "disabled",
    "COMET_MODE": "DISABLED",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OTEL_SDK_DISABLED": "true",
}
"""Environment of every child: no telemetry, no look for a newer version, no code fetched from a hub."""

SWITCHES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
"""Environment of every child that has no business on the network."""

THERE = "where there is a network: `hyb pull '{}'`; then carry its store over"
"""What to do about a source that is not here."""
PINNED = (
    "where there is a network, `hyb run` writes its {} into `hyb.lock` (without a recipe: `hyb pull '{}'`);"
    " carry store and lock over"
)
"""What to do about a source whose pin is not known."""

SEALED = {
    **SWITCHES,
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "NPM_CONFIG_OFFLINE": "true",
    "GOPROXY": "off",
    "GIT_ALLOW_PROTOCOL": "file",
    "WANDB_MODE": "offline",
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def asked(environ: Mapping[str, str]) -> bool:
    """True when HYB_OFFLINE says so, in the words that the option of that name takes."""
    return environ.get("HYB_OFFLINE", "").strip().lower() in ("1", "true", "t", "yes", "y", "on")


def environment(environ: Mapping[str, str], program: str) -> dict[str, str]:
    """What is added to a child's environment. Podman gets no proxy: it would hand it on to containers, whose network
    hyb decides itself."""
    if not asked(environ):
        return dict(QUIET)
    proxies = {} if program.rpartition("/")[2].startswith("podman") else dict.fromkeys(PROXIES, NOWHERE)
    return {**QUIET, **SEALED, **proxies, **({"NO_PROXY": HERE, "no_proxy": HERE} if proxies else {})}


def begin() -> None:
    """`--offline` was given: the guard holds from now on, here and in all that is started."""
    os.environ["HYB_OFFLINE"] = "1"
    os.environ.update(SWITCHES)
    guard()


def guard() -> None:
    """Refuse what leaves this machine, from now on. Can be called more than once."""
    if not _State.on:
        _State.on = True
        sys.addaudithook(_hook)


class _State:
    on = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Raises HybError (exit 6). Called for every audit event, so it looks at the name first."""
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        sock, address = arguments[0], arguments[1]
        if sock.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and not here(address[0]):
            raise _refused(f"{address[0]} port {address[1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not here(arguments[0]):
        raise _refused(_text(arguments[0]))


def here(host: object) -> bool:
    """True when a host is this machine: loopback, no address at all, or its own name."""
    text = _text(host).partition("%")[0].rstrip(".").lower()
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text in ("", "localhost", "localhost.localdomain") or text.endswith(".localhost") or text == _own()
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_unspecified


def _own() -> str:
    return socket.gethostname().lower()


def _text(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host or "")


def _refused(where: str) -> HybError:
    return HybError(
        f"offline, and something wants to reach {where}",
        hint="what a step needs is fetched where there is a network: run it there without `--offline`",
        code=Exit.OFFLINE,
    )
