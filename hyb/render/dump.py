"""Documents to YAML text: one way for all, so that folders can be committed and compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

Document = Mapping[str, Any]

_LOOKS_TYPED = re.compile(r"[-+.0-9~].*|[yYnN]")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some YAML reader takes for a number or a truth value.

    Go's reader (Kubernetes, Skupper) and Python's do not agree on `1e3` or `y`; a namespace may be called so.
    """

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _LOOKS_TYPED.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(documents: Document | Iterable[Document]) -> str:
    """YAML text of one document or several; keys in the order given, lines never folded."""
    several = [documents] if isinstance(documents, Mapping) else list(documents)
    return dump_all(several)


def dump_all(several: Iterable[Any]) -> str:
    """The same for documents that are no mappings: a list of operations is one document."""
    return str(yaml.dump_all(several, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=True))
