"""A service as plain data, from which the documents of every platform are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from collections.abc import Mapping

LABEL_MAX = 63
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
CONTAINER_PORT = 8000
MODELS = "/models"
SECRETS = "/run/secrets"
KEY_FILE = "api-key"


def label_mistake(name: str) -> str:
    """What is wrong with a name that must be a DNS label (RFC 1123); empty when nothing is."""
    if len(name) > LABEL_MAX:
        return f"`{name}` has {len(name)} letters; at most {LABEL_MAX} make a DNS label (RFC 1123)"
    if not _LABEL.fullmatch(name):
        return f"`{name}` is no DNS label (RFC 1123): lower-case letters, digits and `-`, not `-` at either end"
    return ""
