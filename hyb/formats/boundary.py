"""The boundary of a recipe: which classes of artifact may leave the private host. Pure.

    boundary:
      data: never            never | allowed
      weights: never         never | sealed | allowed
      adapter: signed        never | signed | sealed | allowed
      prompts: not-stored    not-stored | allowed

What is not written has the strictest useful value, as above. Credentials are no class: a key never leaves, except in
a Secret, which is where it belongs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

CHOICES: Mapping[str, tuple[str, ...]] = {
    "data": ("never", "allowed"),
    "weights": ("never", "sealed", "allowed"),
    "adapter": ("never", "signed", "sealed", "allowed"),
    "prompts": ("not-stored", "allowed"),
}
"""Class → what may be said of it."""

COVERS: Mapping[str, str] = {
    "data": "data sets: their files, the rows' questions and answers, reports that quote them",
    "weights": "models: GGUF, safetensors and PyTorch files, and images that hold them; `sealed`: in encrypted layers",
    "adapter": "LoRA adapters, as safetensors or GGUF; `signed`: with a signature by a key that you trust",
    "prompts": "what people ask and what the model answers, in logs of any service",
    "credential": "API keys and private keys; they may stand in a Secret and nowhere else",
}
"""Class → what belongs to it."""


@dataclass(frozen=True)
class Boundary:
    """What may leave. Each field is one of CHOICES."""

    data: str = "never"
    weights: str = "never"
    adapter: str = "signed"
    prompts: str = "not-stored"

    def forbids(self, name: str, *, signed: bool = False, sealed: bool = False) -> bool:
        """True when an artifact of this class may not leave. `credential` and `canary` never may."""
        said = asdict(self).get(name, "never")
        missing = (said == "signed" and not signed) or (said == "sealed" and not sealed)
        return said in ("never", "not-stored") or missing

    def as_dict(self) -> dict[str, str]:
        """Class → word."""
        return asdict(self)


def parse(value: Any) -> tuple[Boundary, list[tuple[tuple[str, ...], str]]]:
    """The boundary that a recipe says, and its mistakes as (path below `boundary`, text)."""
    if value is None:
        return Boundary(), []
    if not isinstance(value, Mapping):
        return Boundary(), [((), "`boundary` is a mapping such as `{data: never, weights: never, adapter: signed}`")]
    said: dict[str, str] = {}
    mistakes: list[tuple[tuple[str, ...], str]] = []
    for key, word in value.items():
        if key not in CHOICES:
            near = difflib.get_close_matches(str(key), CHOICES, n=1, cutoff=0.5)
            hint = f" (did you mean `{near[0]}`?)" if near else ""
            mistakes.append(((str(key),), f"boundary: unknown class `{key}`{hint}; classes are {', '.join(CHOICES)}"))
            continue
        plain = "-".join(str(word).replace("_", " ").replace("-", " ").split()) if isinstance(word, str) else ""
        if plain not in CHOICES[key]:
            shown = "true" if word is True else "false" if word is False else "nothing" if word is None else word
            mistakes.append(((key,), f"boundary: `{key}` is one of {', '.join(CHOICES[key])}, not `{shown}`"))
            continue
        said[key] = plain
    return Boundary(**said), mistakes
