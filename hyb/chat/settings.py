"""What the chat app can be told, from the environment (docs/chat.md). All mistakes are reported at once."""

from __future__ import annotations

import ipaddress
import math
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hyb.errors import HybError

PREFIX = "HYB_CHAT_"
SIGN_IN = ("none", "code", "proxy")
LOGS = ("none", "requests", "content")
SHORTEST_CODE = 8  # characters of an access code

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _low(low: float, default: Any) -> Any:
    return field(default=default, metadata={"low": low})


@dataclass(frozen=True)
class Settings:
    """A field `model_url` is `HYB_CHAT_MODEL_URL`. A field that ends in `_file` names a file; its text is used."""

    model_url: str = ""
    """Base of the model's OpenAI API, `http://llm:8000/v1`. The only setting that must be given."""
    model_socket: str = ""
    """A Unix socket to reach the model's server by, in place of the URL's address."""
    key_file: str = ""
    """File with the model's API key."""
    model: str = ""
    """Name of the model to ask for; empty: the first one that the model's server lists."""
    ca_file: str = ""
    """CA certificates that the model's server is checked by; empty: the system's."""
    host: str = "127.0.0.1"
    port: int = _low(0, 8080)
    metrics_port: int = _low(0, 0)
    """Where the cluster finds `/metrics`, `/ready`, `/health`; 0: on `port`, `/metrics` to loopback only."""
    title: str = "Chat"
    note: str = ""
    """A line under the title of an empty chat: whose model it is, what not to tell it."""
    system: str = ""
    """The system prompt. Browsers neither see nor change it."""
    system_file: str = ""
    sign_in: str = "none"
    """`none`, `code` (one access code for all) or `proxy` (an oauth-proxy's header)."""
    access_code_file: str = ""
    secret_file: str = ""
    """Signs the cookies; empty: derived from the access code."""
    session_hours: float = _low(0.01, 12.0)
    user_header: str = "X-Forwarded-User"
    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose `X-Forwarded-*` headers are believed, comma-separated."""
    hosts: tuple[str, ...] = ()
    """Names that a request's Host may have; empty: any, but on loopback only loopback's names (DNS rebinding)."""
    openai: bool = False
    """Also answer `/v1/chat/completions` and `/v1/models`."""
    log: str = "requests"
    """`none`, `requests` (a line each, no text of a person or the model) or `content`."""
    parallel: int = _low(1, 4)
    """Questions that the model works on at once."""
    queue: int = _low(0, 64)
    """Questions that wait at most."""
    queue_seconds: float = _low(0.01, 120.0)
    client_parallel: int = _low(1, 2)
    """Questions of one client at once, waiting ones too."""
    client_minute: float = _low(0, 30.0)
    """Questions of one client a minute; 0: as many as it likes."""
    connections: int = _low(1, 1000)
    body_bytes: int = _low(1024, 256 << 10)
    messages: int = _low(1, 200)
    """Messages in one question, history included."""
    max_tokens: int = _low(0, 1024)
    """Of one answer, at most; 0: as many as the model's server allows."""
    temperature: float | None = field(default=None, metadata={"low": 0})
    answer_bytes: int = _low(1024, 1 << 20)
    connect_seconds: float = _low(0.01, 0.8)
    first_seconds: float = _low(0.01, 120.0)
    """Until the first token."""
    idle_seconds: float = _low(0.01, 30.0)
    """Between two tokens."""
    total_seconds: float = _low(0.01, 600.0)
    slow_seconds: float = _low(0.01, 20.0)
    """A client that takes nothing for so long loses its answer."""
    head_seconds: float = _low(0.01, 10.0)
    """For a request's line and headers."""
    body_seconds: float = _low(0.01, 20.0)
    heartbeat_seconds: float = _low(0.01, 10.0)
    watch_seconds: float = _low(0.01, 10.0)
    """Between two looks at a model that works; one that doesn't is looked at every second, then more rarely."""
    drain_seconds: float = _low(0, 0.0)
    """After SIGTERM, `/ready` says 503 for so long before the port is closed."""
    grace_seconds: float = _low(0, 25.0)
    """For the answers that are under way then."""
    key: str = field(default="", repr=False)
    """Text of `key_file`. Not set by the environment, and neither are the next two."""
    access_code: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


READ = {"key_file": "key", "access_code_file": "access_code", "secret_file": "secret", "system_file": "system"}
OF_FILES = {"key", "access_code", "secret"}


def from_environ(environ: Mapping[str, str]) -> Settings:
    """The settings that `HYB_CHAT_*` give, files read. Raises HybError naming everything that is wrong."""
    wrong: list[str] = []
    values: dict[str, Any] = {}
    known = {PREFIX + f.name.upper(): f for f in fields(Settings) if f.name not in OF_FILES}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or not text:
            continue
        if name not in known:
            wrong.append(f"`{name}` is no setting of hyb chat")
            continue
        try:
            values[known[name].name] = _value(known[name], text.strip())
        except ValueError as error:
            wrong.append(f"`{name}` {error}")
    for source, target in READ.items():
        if path := values.get(source):
            try:
                values[target] = _text(Path(path), lines=target == "system")
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                wrong.append(f"`{PREFIX}{source.upper()}` names `{path}`, which can't be used: {reason}")
    found = Settings(**values)
    wrong += mistakes(found)
    if wrong:
        raise HybError("the settings of the chat app are wrong", details=wrong, hint="docs/chat.md lists them")
    return found


def mistakes(s: Settings) -> list[str]:
    """What does not go together."""
    found = [f"`{PREFIX}MODEL_URL` {wrong}"] if (wrong := _wrong_url(s.model_url)) else []
    if s.sign_in == "code" and not s.access_code:
        found.append(f"`{PREFIX}SIGN_IN=code` needs `{PREFIX}ACCESS_CODE_FILE`")
    if s.access_code and len(s.access_code) < SHORTEST_CODE:
        found.append(f"the access code has fewer than {SHORTEST_CODE} characters")
    if s.access_code and s.sign_in != "code":
        found.append(
            f"`{PREFIX}ACCESS_CODE_FILE` is given, but `{PREFIX}SIGN_IN` is `{s.sign_in}`: nobody would be asked"
        )
    if s.sign_in == "proxy" and not s.trusted_proxies:
        found.append(f"`{PREFIX}SIGN_IN=proxy` needs `{PREFIX}TRUSTED_PROXIES`: who may say who somebody is")
    if s.sign_in == "proxy" and any(n.prefixlen == 0 for n in s.trusted_proxies):
        found.append(
            f"`{PREFIX}TRUSTED_PROXIES` has everybody in it: with `{PREFIX}SIGN_IN=proxy`, all could be anybody"
        )
    if not re.fullmatch(r"[\w-]+", s.user_header, re.ASCII):
        found.append(f"`{PREFIX}USER_HEADER` must be the name of a header, not `{s.user_header}`")
    if s.metrics_port and s.metrics_port == s.port:
        found.append(f"`{PREFIX}METRICS_PORT` must be another port than `{PREFIX}PORT`")
    return found


def _wrong_url(text: str) -> str:
    if not text:
        return "is not given: the base of the model's API, such as `http://llm:8000/v1`"
    try:
        url = urllib.parse.urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and url.port != 0 and not (url.query or url.fragment)
    except ValueError:  # a port that is none, a bracket that does not close
        good = False
    if good and (url.username or url.password):
        return f"holds a password; give the key in the file of `{PREFIX}KEY_FILE`"
    if not good or not (text.isascii() and text.isprintable()) or " " in text:
        return "must be an http or https address such as `http://llm:8000/v1`"
    return ""


def _value(of: Any, text: str) -> Any:
    convert: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "float | None": float,
        "bool": _boolean,
        "tuple[Network, ...]": _networks,
        "tuple[str, ...]": _names,
    }
    if of.type not in convert:
        choices = {"sign_in": SIGN_IN, "log": LOGS}.get(of.name)
        if choices and text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not `{text}`")
        return text
    try:
        value = convert[of.type](text)
    except ValueError as error:
        if of.type in ("int", "float", "float | None"):
            raise ValueError(f"must be a number, not `{text}`") from error
        raise
    low = of.metadata.get("low")
    if low is not None and not (low <= value < math.inf):
        raise ValueError(f"must be {low} or more, not `{text}`")
    if of.name.endswith("port") and value > 65535:
        raise ValueError(f"must be a port, not `{text}`")
    return value


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"must be on or off, not `{text}`")


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(p.strip()) for p in text.split(",") if p.strip())
    except ValueError as error:
        raise ValueError(f"must be networks such as `10.128.0.0/14`: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    found = tuple(p.strip().lower() for p in text.split(",") if p.strip())
    for name in found:
        if not re.fullmatch(r"[a-z0-9.-]+|[0-9a-f:]*:[0-9a-f:.]*", name) or re.fullmatch(r"[^:]*:\d*", name):
            raise ValueError(f"must be names without a port or an address's other parts, not `{name}`")
    return found


def _text(path: Path, *, lines: bool) -> str:
    text = path.read_text().strip()
    if not text:
        raise ValueError("it is empty")
    if not lines and not (text.isprintable() and text.isascii()):
        raise ValueError("it must be one line of ASCII")
    return text
