"""What Kubernetes and DNS take for a name, address or port. Pure: each answers with what is wrong, "" for nothing.

Sources: RFC 1035, RFC 1123; https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

from __future__ import annotations

import ipaddress
import re

LABEL_MAX = 63
NAME_MAX = 253

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def label_problem(text: object) -> str:
    """Why `text` is no RFC 1123 label; empty when it is one."""
    if not isinstance(text, str) or not text:
        return "is empty" if text in ("", None) else f"`{text!r}` is not text"
    if len(text) > LABEL_MAX:
        return f"`{text}` has {len(text)} characters, {LABEL_MAX} are the most"
    if not _LABEL.fullmatch(text):
        return f"`{text}` is no RFC 1123 label: only a-z, 0-9 and `-`, and no `-` at either end"
    return ""


def service_problem(text: object) -> str:
    """Why `text` can't be the name of a Service (RFC 1035 label: it starts with a letter); empty when it can."""
    if problem := label_problem(text):
        return problem
    return "" if str(text)[0].isalpha() else f"`{text}` can't name a Service: it must start with a letter"


def domain_problem(text: object) -> str:
    """Why `text` is no DNS name in lower case; empty when it is one. An address or a wildcard is none."""
    if not isinstance(text, str) or not text:
        return "is empty" if text in ("", None) else f"`{text!r}` is not text"
    if len(text) > NAME_MAX:
        return f"has {len(text)} characters, {NAME_MAX} are the most"
    if "*" in text:
        return f"`{text}` is no DNS name: a wildcard stands for many; give the one that is meant"
    if _is_address(text):
        return f"`{text}` is an IP address, not a DNS name"
    for label in text.split("."):
        if problem := label_problem(label):
            return f"`{text}` is no DNS name: a part {problem}"
    if text.rpartition(".")[2].isdigit():
        return f"`{text}` is no DNS name: it ends in a number"
    return ""


def host_problem(text: object) -> str:
    """Why `text` is neither an IP address nor a DNS name in lower case; empty when it is one."""
    return "" if _is_address(str(text)) else domain_problem(text)


def _is_address(text: str) -> bool:
    """True for an address that means the same on every host: `fe80::1%eth0` does not, and after `%` stands anything."""
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """True for an address that only this machine (in a pod: this pod) can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def port_problem(port: object) -> str:
    """Why `port` is no TCP port; empty when it is one."""
    if isinstance(port, bool) or not isinstance(port, int):
        return f"`{port!r}` is not a whole number"
    return "" if 1 <= port <= 65535 else f"{port} is out of range: 1 to 65535"
