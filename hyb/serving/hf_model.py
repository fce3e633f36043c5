"""A model of transformers that answers one request at a time, token by token. For `hyb.serving.hf`."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jinja2
import torch
import transformers
from transformers.generation.streamers import BaseStreamer

from hyb.serving import child, text
from hyb.serving.openai import ApiError, ChatRequest
from hyb.workers import models
from hyb.workers.protocol import Failed

Say = Callable[[str, str], None]
"""Told ("content" | "reasoning_content", text) as the answer comes."""


@dataclass(frozen=True)
class Prompt:
    """A request as the model reads it: token ids, and whether the answer starts inside a thought."""

    ids: tuple[int, ...]
    thinking: bool


@dataclass(frozen=True)
class Answer:
    """How an answer ended: `stop` or `length`, and its tokens."""

    finish: str
    tokens: int


class Model:
    """A causal language model with its tokenizer. `answer` is for one thread at a time; `prompt` for any."""

    def __init__(self, job: child.Job) -> None:
        """Load it, with its adapters. Raises UnableError."""
        try:
            self.tokenizer = models.load_tokenizer(job.model)
            if not self.tokenizer.chat_template:
                raise child.UnableError(f"the tokenizer of `{job.model}` has no chat template: it can't answer chats")
            model = models.load_causal_lm(job.model)
            if job.adapter:
                model = models.attach_adapter(model, job.adapter)
                if model.dtype == torch.float32:  # exact enough there, and twice as fast as beside the weights
                    model = model.merge_and_unload()
            for a in job.adapters:
                model = models.attach_adapter(model, a.path, a.name)
        except Failed as error:
            raise child.UnableError(str(error)) from error
        self.model, self.context = model, job.context
        self.adapters = tuple(a.name for a in job.adapters)
        self.stops = models.stop_ids(model, self.tokenizer)
        self._lock = threading.Lock()  # a fast tokenizer must not be used by two threads at once

    def prompt(self, request: ChatRequest) -> Prompt:
        """The request through the chat template. Raises ApiError (400): too long, or refused by the template."""
        try:
            with self._lock:
                rendered = self.tokenizer.apply_chat_template(
                    [dict(m) for m in request.messages], tokenize=False, add_generation_prompt=True
                )
                ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]  # the template wrote them
        except jinja2.TemplateError as error:
            raise ApiError(
                400, f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        wanted = request.max_tokens or 1
        if len(ids) + wanted > self.context:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and {wanted} are asked for; the context is {self.context}",
                param="messages",
                code="context_length_exceeded",
            )
        return Prompt(tuple(ids), rendered.rstrip().endswith(text.OPEN))

    def answer(self, request: ChatRequest, prompt: Prompt, say: Say, cancelled: threading.Event) -> Answer:
        """Generate the answer; `say` gets its text. Ends early when `cancelled` is set."""
        if cancelled.is_set():
            return Answer("stop", 0)
        voice = _Voice(self, request, prompt, say, cancelled)
        ids = torch.tensor([prompt.ids], device=self.model.device)
        limit = request.max_tokens or self.context - len(prompt.ids)
        torch.manual_seed(torch.seed() if request.seed is None else request.seed)
        with torch.inference_mode(), self._wearing(request.model):
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._settings(request, limit),
                streamer=voice,
                stopping_criteria=transformers.StoppingCriteriaList([voice.must_stop]),
            )
        ended = voice.stop.hit or voice.last in self.stops
        return Answer("stop" if ended or voice.tokens < limit else "length", voice.tokens)

    def _wearing(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """The model with the adapter of this name, or as it is for any other."""
        if name in self.adapters:
            self.model.set_adapter(name)
            return contextlib.nullcontext()
        bare = self.model.disable_adapter() if self.adapters else contextlib.nullcontext()
        return cast("contextlib.AbstractContextManager[Any]", bare)

    def decode(self, ids: Any) -> str:
        """Ids to text, without special tokens."""
        with self._lock:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _settings(self, request: ChatRequest, limit: int) -> Any:
        """The model's own generation settings, with what the request says instead."""
        settings = copy.deepcopy(self.model.generation_config)
        settings.max_length = None
        settings.max_new_tokens = limit
        settings.eos_token_id = self.stops
        settings.pad_token_id = self.stops[0] if self.stops else 0
        if request.temperature is not None:
            settings.do_sample = request.temperature > 0
            settings.temperature = request.temperature or None
        elif request.top_p is not None or request.seed is not None:
            settings.do_sample = True
        if request.top_p is not None:
            settings.top_p = request.top_p or 1e-9  # 0: the likeliest token alone
        if not settings.do_sample:
            settings.temperature = settings.top_p = settings.top_k = None
        return settings


class _Voice(BaseStreamer):  # type: ignore[misc]
    """Gets the tokens from `generate`: first the prompt's, then the answer's."""

    def __init__(
        self, model: Model, request: ChatRequest, prompt: Prompt, say: Say, cancelled: threading.Event
    ) -> None:
        self.words, self.stop = text.Words(model.decode), text.Stop(request.stop)
        self.thinking = text.Thinking(prompt.thinking)
        self.say, self.cancelled = say, cancelled
        self.tokens, self.last = 0, -1
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """New token ids."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        ids = value.reshape(-1).tolist()
        self.tokens, self.last = self.tokens + len(ids), ids[-1]
        for kind, part in self.thinking.push(self.stop.push(self.words.push(ids))):
            self.say(kind, part)

    def end(self) -> None:
        """The last token was put."""
        rest = self.stop.push(self.words.end()) + self.stop.end()
        for kind, part in (*self.thinking.push(rest), *self.thinking.end()):
            self.say(kind, part)

    def must_stop(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
        """A stopping criterion: (batch,) of bool."""
        ended = self.cancelled.is_set() or self.stop.hit
        return torch.full((input_ids.shape[0],), ended, device=input_ids.device)
