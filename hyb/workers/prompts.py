"""A conversation as token ids, as the model's own chat template writes it."""

from __future__ import annotations

from typing import Any

from hyb.workers.protocol import Failed

_WRONG = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What code in a template can raise besides the template engine's own errors: it is a stranger's code."""


def ids(tokenizer: Any, messages: list[dict[str, str]], *, whole: bool, limit: int) -> list[int]:
    """Token ids of the conversation: the first `limit` of the `whole`, or the last up to where the last answer begins.

    Without a chat template the texts alone, a line each. Raises Failed when the template does not take it.
    """
    from jinja2 import TemplateError

    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    if not whole and plain[-1]["role"] == "assistant":
        plain = plain[:-1]
    if not tokenizer.chat_template:
        return list(tokenizer.encode("\n".join(m["content"] for m in plain)))[:limit]
    ask = plain[-1]["role"] != "assistant"
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=ask)
    except (TemplateError, *_WRONG) as error:
        raise Failed(f"the chat template does not take a conversation: {error}") from error
    found = list(tokenizer.encode(text, add_special_tokens=False))  # the template has written them
    return found[:limit] if whole else found[-limit:]
