"""The pinned chat templates of reasoning models: a pair for each family, as files.

What such a model ships drops all that stands before `</think>` from earlier turns, and some of its versions end the
prompt in `<think>\\n` while others do not. So nothing is left to what a folder happens to carry:

inference.jinja   what the model is asked with, by tuning, evaluation, GGUF and serving alike. Earlier turns have no
                  reasoning; the prompt ends in `<think>\\n`.
training.jinja    the same up to the last message, which is written whole: its reasoning in `<think>…</think>`, its
                  answer, the end of turn. It begins with what inference.jinja writes, to the letter; whoever trains
                  checks that.

A model of no family keeps its own template for both. The digests of a pair stand in the artifact that was made with
it, and so in the lock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hyb import digest as dg

_HERE = Path(__file__).parent
_R1 = (
    "{{bos_token}}{{ns.system_prompt}}",
    "{{'<｜User｜>' + message['content']}}",
    "{% set content = content.split('</think>')[-1] %}",
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}",
)
_R1_END = re.compile(
    r"\{% if add_generation_prompt and not ns\.is_tool %\}"
    r"\{\{'<｜Assistant｜>(?:<think>(?:\\n|\n))?'\}\}\{% endif %\}\s*"
)


@dataclass(frozen=True)
class Pair:
    """The templates of a family, as Jinja text."""

    family: str
    training: str
    inference: str

    def as_json(self) -> dict[str, str]:
        """The family's name and both digests."""
        digests = {name: dg.of_bytes(getattr(self, name).encode()) for name in ("training", "inference")}
        return {"family": self.family, **digests}


def pair_of(template: object) -> Pair | None:
    """The pair of the family whose template this is, shipped or pinned; None for a model of no family.

    A shipped one is known by its own words, all of them: a relative that writes its turns otherwise (R1-0528, V3) has
    the same tokens and is none of the family.
    """
    if not isinstance(template, str):
        return None
    r1 = pair("deepseek-r1")
    if template in (r1.inference, r1.training):
        return r1
    found = _R1_END.search(template) if all(part in template for part in _R1) else None
    return r1 if found and found.end() == len(template) else None


def inference_of(template: str) -> str:
    """What a model with this template is to be asked with: its family's, or the template itself."""
    found = pair_of(template)
    return found.inference if found else template


def file(inference: str) -> Path | None:
    """The file with this inference template, for a program that takes a path; None when no family has it."""
    found = pair_of(inference)
    return _HERE / found.family / "inference.jinja" if found else None


@cache
def reasoning_prompt() -> str:
    """How a model is told an answer whose reasoning it is to write; fields `{question}` and `{answer}`."""
    return (_HERE / "reasoning.txt").read_text(encoding="utf-8")


@cache
def pair(family: str) -> Pair:
    """The pair of a family. Raises OSError for one that there is not."""
    texts = [(_HERE / family / f"{name}.jinja").read_text(encoding="utf-8") for name in ("training", "inference")]
    return Pair(family, *texts)
