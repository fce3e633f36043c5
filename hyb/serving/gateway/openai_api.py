"""What a client may ask of an engine through OpenAI's API: bodies checked, reduced to an allow-list. Pure.

An engine's server takes more than the API names: llama.cpp lets a request choose its slot and its adapters, vLLM its
template. Such fields belong to the service's owner. Three things can happen to a field: it is passed on (`CHAT`, …),
it is refused in words (`OWNERS`), or it is left out and named in the answer's header `X-Hyb-Ignored`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from hyb.serving.gateway.errors import GatewayError
from hyb.serving.gateway.types import Model

DEPTH = 64
"""Lists and objects inside each other in a request."""
MARKS = 1_000_000
"""Commas and brackets in a request: each may become a Python object. A prompt of 8 MiB has a tenth of them."""
CHOICES = 8  # answers to one question
STOPS = 16
BIASES = 1024  # tokens that a request favours or bars; an engine looks at each one for each token
SCHEMA = 4000  # objects and lists in all schemas of a request
ENTRIES = 512  # entries of one of them: the time to make a grammar of it grows with their square, and more


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAMPLING = _names(
    "temperature top_p top_k min_p typical_p top_n_sigma seed stop presence_penalty frequency_penalty repeat_penalty"
    " repetition_penalty repeat_last_n logit_bias logprobs top_logprobs n ignore_eos min_tokens mirostat mirostat_tau"
    " mirostat_eta xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length dry_penalty_last_n"
    " dynatemp_range dynatemp_exponent max_tokens stream stream_options model response_format"
    " timings_per_token"
)
CHAT = _SAMPLING | _names(
    "messages tools tool_choice parallel_tool_calls max_completion_tokens reasoning_effort"
    " chat_template_kwargs add_generation_prompt continue_final_message"
)
COMPLETION = _SAMPLING | frozenset(("prompt",))
EMBEDDING = frozenset(("model", "input", "encoding_format", "dimensions"))
OWNERS = _names(
    "lora lora_request id_slot slot_id slot cache_prompt n_keep n_discard n_cache_reuse samplers chat_template"
    " grammar grammar_lazy grammar_triggers json_schema speculative prompt_logprobs kv_transfer_params cache_salt"
    " priority mm_processor_kwargs documents t_max_predict_ms t_max_prompt_ms response_fields post_sampling_probs"
    " logits_processors guided_grammar guided_decoding_backend structured_outputs vllm_xargs bad_words"
    " return_tokens return_progress reasoning_format media_path"
)
"""Fields of engines that only the service's owner may set: slots, adapters, templates, raw grammars."""
ABSENT = _names("functions function_call suffix echo audio prediction web_search_options best_of")
"""Fields of OpenAI's API that would change the answer, and that no engine here has."""
KWARGS = frozenset(("enable_thinking", "thinking"))
"""Arguments of a chat template that a client may set."""


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises GatewayError (400): no JSON, no object, too deep, too many parts."""
    opening = data.count(b"[") + data.count(b"{")
    if opening + data.count(b",") > MARKS:
        raise GatewayError(400, f"the body has more than {MARKS} values", code="too_complex")
    try:
        body = json.loads(data, parse_constant=_no_number)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise GatewayError(400, "the body is no JSON", code="invalid_json") from error
    if not isinstance(body, dict):
        raise GatewayError(400, "the body is no JSON object", code="invalid_json")
    if opening > DEPTH and depth(body) > DEPTH:
        raise _too_deep()
    return body


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _too_deep() -> GatewayError:
    return GatewayError(400, f"the body has more than {DEPTH} lists and objects inside each other", code="too_complex")


def depth(value: Any) -> int:
    """How many lists and objects lie inside each other."""
    found, level = 0, [value]
    while level := [v for v in level if isinstance(v, (dict, list))]:
        found += 1
        if found > DEPTH:
            break
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return found


def chat(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the request for an engine, the fields that were left out). Raises GatewayError (400)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise GatewayError(400, "`messages` must be a list with at least one message", param="messages")
    _no_urls(messages)
    found, left = _reduced(body, CHAT)
    _check_schemas(found)
    kwargs = found.get("chat_template_kwargs")
    if kwargs is not None and not (isinstance(kwargs, dict) and KWARGS.issuperset(kwargs)):
        allowed = ", ".join(f"`{k}`" for k in sorted(KWARGS))
        raise GatewayError(400, f"`chat_template_kwargs` may have {allowed} only", param="chat_template_kwargs")
    return found, left


def one_tool(request: dict[str, Any]) -> None:
    """Say a choice of one tool by its name in the words that llama.cpp knows: that tool alone, and required.

    It reads `auto` from anything but a word (https://github.com/ggml-org/llama.cpp/pull/26849). Raises GatewayError
    (400) for a name that is not among the tools.
    """
    choice = request.get("tool_choice")
    if not isinstance(choice, dict):
        return
    name = (choice.get("function") or {}).get("name") if isinstance(choice.get("function"), dict) else None
    tools = request.get("tools")
    named = [
        tool for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict) and tool["function"].get("name") == name
    ]  # fmt: skip
    if not named:
        raise GatewayError(400, "`tool_choice` names none of `tools`", param="tool_choice")
    request["tools"], request["tool_choice"] = named, "required"


def completion(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """As `chat`, for a text to go on with."""
    prompt = body.get("prompt")
    if not isinstance(prompt, (str, list)) or not prompt:
        raise GatewayError(400, "`prompt` must be a text, or a list", param="prompt")
    many = isinstance(prompt, list) and not all(isinstance(p, int) for p in prompt)
    if many and len(prompt) > CHOICES:
        raise GatewayError(400, f"`prompt` may have at most {CHOICES} texts", param="prompt")
    return _reduced(body, COMPLETION)


def embedding(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """As `chat`, for texts to embed."""
    given = body.get("input")
    if not isinstance(given, (str, list)) or not given:
        raise GatewayError(400, "`input` must be a text, or a list", param="input")
    return _reduced(body, EMBEDDING)


def _reduced(body: Mapping[str, Any], allowed: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    refused = sorted(OWNERS.intersection(body))
    if refused:
        names = ", ".join(f"`{name}`" for name in refused)
        raise GatewayError(
            400, f"{names}: only the service's owner may set this", param=refused[0], code="unsupported_parameter"
        )
    absent = next((name for name in sorted(ABSENT) if body.get(name)), None)
    if absent:
        raise GatewayError(400, f"`{absent}` is not supported", param=absent, code="unsupported_parameter")
    left = [name for name in body if name not in allowed]
    found = {name: value for name, value in body.items() if name in allowed and value is not None}
    _check(found)
    return found, left


def _check(body: Mapping[str, Any]) -> None:
    """What would cost the engine too much, or mean something else to it than to the API."""
    if not isinstance(body.get("model", ""), str):
        raise GatewayError(400, "`model` must be a text", param="model")
    if not isinstance(body.get("stream", False), bool):
        raise GatewayError(400, "`stream` must be true or false", param="stream")
    if not isinstance(body.get("stream_options", {}), dict):
        raise GatewayError(400, "`stream_options` must be an object", param="stream_options")
    for name, low, high in (("n", 1, CHOICES), ("max_tokens", 0, 1 << 31), ("max_completion_tokens", 0, 1 << 31),
                            ("top_logprobs", 0, 20), ("dimensions", 1, 1 << 20)):  # fmt: skip
        value = body.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise GatewayError(400, f"`{name}` must be a whole number from {low} to {high}", param=name)
    bias = body.get("logit_bias", {})
    if not isinstance(bias, (dict, list)) or len(bias) > BIASES:
        raise GatewayError(400, f"`logit_bias` may name at most {BIASES} tokens", param="logit_bias")
    stop = body.get("stop", "")
    if isinstance(stop, list) and (len(stop) > STOPS or not all(isinstance(s, str) for s in stop)):
        raise GatewayError(400, f"`stop` must be a text, or a list of at most {STOPS}", param="stop")


def _check_schemas(body: Mapping[str, Any]) -> None:
    """An engine makes a grammar of a schema: a minute's work for one with thousands of properties."""
    if not isinstance(body.get("response_format", {}), dict):
        raise GatewayError(400, "`response_format` must be an object", param="response_format")
    if not isinstance(body.get("tools", []), list):
        raise GatewayError(400, "`tools` must be a list", param="tools")
    for name in ("response_format", "tools"):
        left, count = [body.get(name)], 0
        while left:
            value = left.pop()
            if isinstance(value, (dict, list)):
                count += 1
                if count > SCHEMA or len(value) > ENTRIES:
                    raise GatewayError(400, f"the schema in `{name}` is too large", param=name, code="too_complex")
                left += value.values() if isinstance(value, dict) else value


def _no_urls(messages: Sequence[Any]) -> None:
    """An engine would fetch them: from the host's network, or from its disk."""
    for at, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            for value in part.values() if isinstance(part, dict) else ():
                url = value.get("url") if isinstance(value, dict) else None
                if isinstance(url, str) and not url.startswith("data:"):
                    raise GatewayError(
                        400, "an image must be in the request itself, as a `data:` URL", param=f"messages[{at}]"
                    )


def dump(body: Mapping[str, Any]) -> bytes:
    """A body as bytes. Raises GatewayError (400) for half a character, which JSON can write and UTF-8 can't."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise GatewayError(400, "the body has half a character (a lone surrogate)", code="invalid_json") from error


def entry(model: Model, base: str) -> dict[str, Any]:
    """A model in `/v1/models`. `parent`: the base of an adapter."""
    return {
        "id": model.id, "object": "model", "created": model.created, "owned_by": "hyb",
        "parent": None if model.kind == "base" else base, "max_model_len": model.context, "digest": model.digest,
    }  # fmt: skip


def listing(models: Iterable[Model]) -> dict[str, Any]:
    """`/v1/models`: the base and its adapters."""
    every = list(models)
    return {"object": "list", "data": [entry(m, every[0].id) for m in every]}
