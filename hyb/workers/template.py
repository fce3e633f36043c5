"""Is a chat template safe to use: rendered once, in a sandbox, with limits on time, memory and output.

`python -m hyb.workers.template < TEMPLATE`; the exit code is 0, or 4 with the reason on stderr. A template is a program
of whoever made the model. It is rendered as transformers does (an immutable sandbox with the same helpers), with a
short conversation; the kernel's limits end what loops or hoards. A template that only errs is not this worker's matter:
many refuse some conversations, and whoever uses one says so. What it does for other messages is not known by this.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import ext, sandbox
from jinja2.exceptions import SecurityError

CPU, MEMORY, OUTPUT = 5, 1 << 30, 1 << 20
"""Seconds, bytes of address space, bytes of text. A conversation of two lines takes microseconds and kilobytes."""
MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "?"},
]


def check(template: str) -> str:
    """Why the template must not be used; "" when nothing speaks against it."""
    env = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols])
    env.filters["tojson"] = lambda value, **_more: json.dumps(value, ensure_ascii=False)
    env.globals |= {"raise_exception": _raise, "strftime_now": datetime.now().strftime}
    try:
        size = 0
        for piece in env.from_string(template).generate(
            messages=MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        ):
            size += len(piece)
            if size > OUTPUT:
                return f"it writes more than {OUTPUT >> 20} MiB for a conversation of three lines"
    except SecurityError as error:
        return f"it reaches for what no template needs: {error}"
    except MemoryError:
        return f"it takes more than {MEMORY >> 30} GiB of memory"
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return ""
    return ""


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    text = sys.stdin.buffer.read().decode(errors="replace")
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if why := check(text):
        sys.stderr.write(why)
        sys.exit(4)
