"""An Ollama Modelfile for a GGUF. Pure.

Ollama knows the chat template of a GGUF only when its text is near one of a short list, and otherwise sends prompts to
the model as they are (ollama, `template/template.go`: `Named`, `DefaultTemplate`). So TEMPLATE is written, in the Go
template language, for the families whose Jinja text is exactly one that can be said in it; for any other a comment
says that it is missing, since a guess would make the model dumber in silence. SYSTEM is never written: a default
system prompt is part of the template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb import templates

CONTEXT = 8192
"""Most tokens of context that are asked for: memory grows with them, and Ollama takes it all at once."""

_CHATML = re.compile(
    r"(?:\{% if not add_generation_prompt is defined %\}\{% set add_generation_prompt = false %\}\{% endif %\})?"
    r"\{% for message in messages %\}"
    r"(?:\{% if loop\.first and messages\[0\]\['role'\] != 'system' %\}"
    r"\{\{ ?'<\|im_start\|>system\n(?P<system>[^'\\{}]*)<\|im_end\|>\n' ?\}\}\{% endif %\})?"
    r"\{\{ ?'<\|im_start\|>' \+ message\['role'\] \+ '\n' \+ message\['content'\] \+ '<\|im_end\|>(?:' \+ ')?\n' ?\}\}"
    r"\{% endfor %\}"
    r"\{% if add_generation_prompt %\}\{\{ ?'<\|im_start\|>assistant\n' ?\}\}\{% endif %\}\s*"
)
_THINKS = re.compile(r"<｜Assistant｜><think>\n'")
_LINE = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Chat:
    """A chat template as Ollama takes it, and the texts that end an answer."""

    template: str
    stops: tuple[str, ...]


def chat(jinja: str) -> Chat | None:
    """The Go template that writes what this Jinja template writes; None when it is not one of those that we know."""
    text = jinja.replace("\\n", "\n")
    if found := _CHATML.fullmatch(text):
        return Chat(_chatml(found["system"]), ("<|im_end|>",))
    if templates.pair_of(jinja):
        return Chat(_r1("<think>\n" if _THINKS.search(text) else ""), ("<｜end▁of▁sentence｜>", "<｜User｜>"))
    return None


def render(
    *,
    jinja: str,
    context: int = 0,
    generation: Mapping[str, Any] | None = None,
    license: str = "",
    adapter: str = "",
    model: str = "./model.gguf",
) -> str:
    """The Modelfile. `generation`: the model's `generation_config.json`; `license`: its text or its SPDX name;
    `adapter`: the path of a GGUF adapter, or ""."""
    settings = generation or {}
    known = chat(jinja)
    lines = [f"FROM {model}"]
    lines += [f"ADAPTER {adapter}"] if adapter else []
    if known:
        lines.append(f'TEMPLATE """{known.template}"""')
    elif jinja:
        lines.append("# no TEMPLATE: this model's chat template has no counterpart here that is surely right")
    lines += [f'PARAMETER stop "{stop}"' for stop in (known.stops if known else ())]
    for ours, theirs in (("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k")):
        if settings.get("do_sample") and isinstance(settings.get(ours), (int, float)):
            lines.append(f"PARAMETER {theirs} {settings[ours]:g}")
    if settings.get("do_sample") is False:
        lines.append("PARAMETER temperature 0")
    if isinstance(penalty := settings.get("repetition_penalty"), (int, float)) and penalty != 1:
        lines.append(f"PARAMETER repeat_penalty {penalty:g}")
    if context:
        lines.append(f"PARAMETER num_ctx {min(context, CONTEXT)}")
    if license:
        said = license.strip().replace('"""', "'''")
        lines.append(f"LICENSE {said}" if _LINE.fullmatch(said) else f'LICENSE """{said}\n"""')
    return "\n".join(lines) + "\n"


def _chatml(system: str | None) -> str:
    default = "{{ else }}<|im_start|>system\n" + system + "<|im_end|>\n" if system is not None else ""
    return (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n" + default + "{{ end }}"
        '{{ range .Messages }}{{ if ne .Role "system" }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )


def _r1(think: str) -> str:
    """BOS is not written: the GGUF says that the tokenizer adds it."""
    return (
        "{{ .System }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}<｜User｜>{{ .Content }}'
        '{{ else if eq .Role "assistant" }}<｜Assistant｜>{{ .Content }}<｜end▁of▁sentence｜>'
        "{{ end }}{{ end }}<｜Assistant｜>" + think
    )
