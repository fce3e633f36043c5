"""Ask a model questions and write down what it says: greedy, batched, deterministic.

One job has several passes (the base, the base with its adapter, a merged model, a GGUF file) over the same questions.
Passes that share a base share its load: the adapter is switched off for one and on for the other.

A prompt is the chat template's text up to its generation prompt, tokenized as it stands: the template writes BOS
itself. Batches are padded on the left and masked by position, never by the pad id (pad is eos in some models). The
model's own sampling settings are put aside; only its stop tokens are kept.

NF4 on the CPU is evaluated on its dequantized values, where memory allows: the same weights, unpacked once and not at
each token. GGUF goes through llama.cpp inside this process, one question after the other.

With `measure` each pass is also given texts and answers to read, see hyb.workers.likelihood; with `tasks` those of
lm-evaluation-harness, see hyb.workers.harness.

What `out` has of the same job already, being killed before, is not asked again.

Job: `passes` [{name, format: safetensors|gguf, model, adapter, quantize, context}], `questions` (JSON lines with
`messages`, `where`, `reference`), `out` (JSON lines: pass, index, text, thinking, tokens, ended), `max_tokens`,
`batch`, `seed`, `device`, `measure`: {"rows": indices of questions, "texts": […]} or nothing, `tasks`:
{"names", "folder", "limit"} or nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyb.fs import write_atomic
from hyb.workers import likelihood, protocol
from hyb.workers.protocol import Failed

if TYPE_CHECKING:
    from hyb.workers.llama_reader import Reader

_PLAIN = ("role", "content")
TASK_CONTEXT = 4096
"""Tokens that a task may ask of a GGUF, or its own context when that is less."""


@dataclass(frozen=True)
class Asked:
    """A question: messages up to the user's last, and its file and line."""

    messages: list[dict[str, str]]
    where: str = ""
    reference: str = ""
    """The right answer in full, where there is one."""


@dataclass(frozen=True)
class Said:
    """What a model said to question `index`. `thinking`: the prompt had opened `<think>`. `ended`: by a stop token."""

    index: int
    text: str
    thinking: bool
    tokens: int
    ended: bool


class Speaker(Protocol):
    """A model that answers."""

    def answers(self, questions: list[Asked], known: frozenset[int] = frozenset()) -> Iterator[Said]:
        """One `Said` for each question, in any order; of those that are `known` where that changes no other answer."""
        ...

    def losses(self, prompt: list[dict[str, str]] | None, text: str) -> tuple[float, int]:
        """(sum of -log p, tokens) of a text behind a question, or alone."""
        ...


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Run all passes. Returns tokens and seconds of each pass and the device."""
    lines = Path(job["questions"]).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    questions = [
        Asked([{k: m[k] for k in _PLAIN} for m in row["messages"]], row.get("where", ""), row.get("reference", ""))
        for row in rows
    ]
    total = len(questions) * len(job["passes"])
    manager = _manager(job)
    known = _known(Path(job["out"]))
    done = sum(map(len, known.values()))
    protocol.progress(f"asking {job['passes'][0]['name']}", done, total, "question", "loading the model")
    loader = _Loader(job)
    measured: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    with Path(job["out"]).open("a", encoding="utf-8") as out:
        for part in job["passes"]:
            speaker = loader.speaker(part, questions)
            begun, tokens = time.monotonic(), 0
            answered = known.setdefault(part["name"], set())
            for said in speaker.answers(questions, frozenset(answered)):
                tokens += said.tokens
                rate = tokens / max(time.monotonic() - begun, 1e-9)
                if said.index not in answered:
                    done += 1
                    out.write(json.dumps({"pass": part["name"], **vars(said)}, ensure_ascii=False) + "\n")
                    out.flush()
                protocol.progress(f"asking {part['name']}", done, total, "question", f"{rate:.0f} tok/s")
            seconds = time.monotonic() - begun
            rate = round(tokens / max(seconds, 1e-9), 1)
            measured[part["name"]] = {"tokens": tokens, "seconds": round(seconds, 3), "tokens_per_second": rate}
            if job.get("measure"):
                losses[part["name"]] = likelihood.of(speaker, questions, job["measure"], part["name"])
            if manager:
                tasks[part["name"]] = _tasks(speaker, job, manager)
    return {"passes": measured, "device": loader.device, "losses": losses, "tasks": tasks}


def _known(out: Path) -> dict[str, set[int]]:
    """Pass → the questions that were answered before this was killed. What is no whole line is taken away."""
    found: dict[str, set[int]] = {}
    lines = []
    for line in out.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if out.exists() else ():
        try:
            said = json.loads(line)
            found.setdefault(said["pass"], set()).add(said["index"])
        except (ValueError, KeyError, TypeError):
            break
        lines.append(line)
    write_atomic(out, "".join(f"{line}\n" for line in lines).encode())
    return found


def _manager(job: Mapping[str, Any]) -> Any:
    """The harness's manager of the tasks that are wanted, or None. Raises Failed when one can't be had."""
    if not job.get("tasks"):
        return None
    from hyb.workers import harness

    return harness.prepared(job["tasks"])


def _tasks(speaker: Speaker, job: Mapping[str, Any], manager: Any) -> dict[str, Any]:
    from hyb.workers import harness

    seed = int(job["seed"])
    if isinstance(speaker, GgufSpeaker):
        from hyb.workers.harness_gguf import GgufLM

        model = GgufLM(speaker.reader, speaker.facts, speaker.context)
        return harness.run(model, job["tasks"], manager, seed=seed)
    if not isinstance(speaker, TorchSpeaker):
        raise Failed("this model can't be given tasks")
    with speaker.as_asked():
        model = harness.of_torch(speaker.model, speaker.tokenizer, speaker.batch)
        return harness.run(model, job["tasks"], manager, seed=seed)


class _Loader:
    """Loads what a pass needs and keeps the last base for the next one."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.device = "cpu"
        self.loaded: tuple[Any, ...] = ()
        self.torch: TorchSpeaker | None = None

    def speaker(self, part: Mapping[str, Any], questions: list[Asked]) -> Speaker:
        """The model of one pass. Raises Failed."""
        if part["format"] == "gguf":
            self.torch = None
            longest = likelihood.longest(questions, self.job.get("measure"))
            longest = max(longest, TASK_CONTEXT) if self.job.get("tasks") else longest
            return GgufSpeaker(part["model"], questions, int(self.job["max_tokens"]), part.get("context"), longest)
        wanted = (part["model"], part["quantize"])
        if self.torch is None or self.loaded != wanted:
            self.torch = None  # let go of the memory first
            self.torch, self.loaded = TorchSpeaker(part["model"], part["quantize"], self.job), wanted
            self.device = self.torch.device.type
        self.torch.use(part["adapter"])
        return self.torch


class TorchSpeaker:
    """A safetensors model through transformers, with an adapter on it or off."""

    def __init__(self, folder: str, quantize: str, job: Mapping[str, Any]) -> None:
        from hyb.workers import models

        models.make_deterministic(int(job["seed"]))
        self.batch, self.max_tokens = int(job["batch"]), int(job["max_tokens"])
        self.device = models.pick_device(job["device"])
        self.tokenizer = models.load_tokenizer(folder)
        if not self.tokenizer.chat_template:
            raise Failed(
                f"the tokenizer of `{folder}` has no chat template, so a question can't be put",
                hint="take an instruct model, or put a `chat_template.jinja` into the model folder",
            )
        self.model = models.load_causal_lm(folder, quantize=quantize, device=self.device)
        if quantize == "nf4" and self.device.type == "cpu" and _fits(models, self.model):
            self.model = self.model.dequantize()
        self.stops = models.stop_ids(self.model, self.tokenizer)
        self.context = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        self.adapters: dict[str, str] = {}
        self.adapter = ""

    def use(self, adapter: str) -> None:
        """Put this adapter on the model, or none."""
        from hyb.workers import models

        if adapter and adapter not in self.adapters:
            name = f"a{len(self.adapters)}"
            self.model, self.adapters[adapter] = models.attach_adapter(self.model, adapter, name), name
        if adapter:
            self.model.set_adapter(self.adapters[adapter])
        self.adapter = adapter

    def as_asked(self) -> contextlib.AbstractContextManager[Any]:
        """The adapter of this pass on; off where the pass has none."""
        off = self.adapters and not self.adapter
        return self.model.disable_adapter() if off else contextlib.nullcontext()

    def losses(self, prompt: list[dict[str, str]] | None, text: str) -> tuple[float, int]:
        """(sum of -log p, tokens) of an answer, or of a plain text without a prompt; (0, 0) when it does not fit."""
        import torch

        given, ids = [], self.tokenizer.encode(text, add_special_tokens=prompt is None)
        if prompt is not None:
            asked = self._prompt(prompt)
            given = self.tokenizer.encode(asked, add_special_tokens=False)
            ids = self.tokenizer.encode(likelihood.closed(asked) + text, add_special_tokens=False)
        start = len(given) or 1
        whole = given + ids
        if len(whole) <= start or len(whole) > self.context:
            return 0.0, 0
        tensor = torch.tensor([whole], device=self.device)
        with torch.inference_mode(), self.as_asked():
            logits = self.model(input_ids=tensor, logits_to_keep=len(whole) - start + 1).logits[0, :-1].float()
        picked = torch.log_softmax(logits, -1).gather(-1, tensor[0, start:, None])
        return -float(picked.sum()), len(whole) - start

    def answers(self, questions: list[Asked], known: frozenset[int] = frozenset()) -> Iterator[Said]:
        """See Speaker. Batches stay what they are: one that is not wholly known is asked whole.

        Raises Failed when questions are longer than the model's context.
        """
        prompts = [self._prompt(q.messages) for q in questions]
        encoded = [self.tokenizer.encode(p, add_special_tokens=False) for p in prompts]
        sized = zip(questions, encoded, strict=True)
        long = [
            f"{q.where}: {len(ids)} tokens and {self.max_tokens} to answer" for q, ids in sized if not self._room(ids)
        ]
        if long:
            raise Failed(
                f"{len(long)} question(s) leave no room in the model's context of {self.context} tokens",
                hint="lower the most tokens of an answer, or shorten the questions", details=long,
            )  # fmt: skip
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            if known.issuperset(chosen):
                continue
            for index, ids in zip(chosen, self._generate([encoded[i] for i in chosen]), strict=True):
                ended = bool(ids) and ids[-1] in self.stops
                text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                yield Said(index, text, prompts[index].rstrip().endswith("<think>"), len(ids), ended)

    def _room(self, ids: list[int]) -> bool:
        return bool(ids) and len(ids) + self.max_tokens <= self.context

    def _prompt(self, question: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, KeyError) as error:
            raise Failed(f"the chat template does not take a question of the data: {error}") from error

    def _generate(self, batch: list[list[int]]) -> list[list[int]]:
        """The new tokens of each prompt, up to and with its stop token."""
        import torch
        import transformers

        width = max(map(len, batch))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stops[0]
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=self.device)
        greedy = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=self.max_tokens, eos_token_id=self.stops, pad_token_id=pad
        )
        self.model.generation_config = greedy  # the model's own has a temperature and the like
        with torch.inference_mode(), self.as_asked():
            made = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        return [_until(row[width:].tolist(), self.stops) for row in made]


class GgufSpeaker:
    """A GGUF file through llama.cpp. Its HTTP port is on loopback, any free one, closed to all by a random key."""

    def __init__(
        self, path: str, questions: list[Asked], max_tokens: int, context: int | None, reading: int = 0
    ) -> None:
        import os
        import secrets

        import xllamacpp

        from hyb import templates
        from hyb.hub import checks

        self.path, self.max_tokens = path, max_tokens
        self.key = secrets.token_urlsafe(24)
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [self.key]
        params.ui, params.warmup, params.offline = False, False, True
        self.facts = checks.gguf(Path(path)).metadata
        own = str(self.facts.get("tokenizer.chat_template") or "")
        if (pinned := templates.inference_of(own)) != own:
            params.chat_template = pinned  # a GGUF of somebody else's carries what the family shipped
        params.n_parallel = 1  # rows of one batch are rounded otherwise than each alone
        # a token is at least a byte of text; 1024 for what the template adds
        longest = max(len(json.dumps(q.messages, ensure_ascii=False).encode()) for q in questions)
        params.n_ctx = self.context = min(longest + max(max_tokens, reading) + 1024, context or 1 << 20)
        threads = len(os.sched_getaffinity(0))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        try:
            self.server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise Failed(f"llama.cpp can't load `{path}`: {error}") from error

    def answers(self, questions: list[Asked], known: frozenset[int] = frozenset()) -> Iterator[Said]:
        """See Speaker."""
        thinking = self._prompt(questions[0].messages).rstrip().endswith("<think>")
        for index, asked in enumerate(questions):
            if index in known:
                continue
            request = {
                "messages": asked.messages, "max_tokens": self.max_tokens, "temperature": 0, "top_k": 1, "seed": 0,
                "cache_prompt": False, "reasoning_format": "none",
            }  # fmt: skip
            try:
                reply = self.server.handle_chat_completions(request)
            except (ValueError, RuntimeError) as error:
                raise Failed(f"llama.cpp refused {asked.where}: {error}") from error
            if "choices" not in reply:
                raise Failed(f"llama.cpp refused {asked.where}: {reply.get('error', {}).get('message', 'no answer')}")
            choice = reply["choices"][0]
            text = choice["message"]["content"] or ""
            yield Said(index, text, thinking, reply["usage"]["completion_tokens"], choice["finish_reason"] == "stop")

    def _prompt(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the template writes it."""
        return str(self.post("/apply-template", {"messages": messages})["prompt"])

    def losses(self, prompt: list[dict[str, str]] | None, text: str) -> tuple[float, int]:
        """See Speaker."""
        asked = self._prompt(prompt) if prompt is not None else ""
        given = self.reader.ids(asked, special=False) if asked else []
        start = len(given) or 1
        whole = given + self.reader.ids(likelihood.closed(asked) + text, special=not asked)
        if len(whole) <= start or len(whole) > self.context:
            return 0.0, 0
        told = self.reader.likelihood(whole, start)
        return -sum(log for log, _ in told), len(told)

    @functools.cached_property
    def reader(self) -> Reader:
        """The file once more, to be read: llama.cpp's server does not tell how likely a given text is."""
        from hyb.workers.llama_reader import Reader

        return Reader(Path(self.path), self.context)

    def post(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask llama.cpp's own API."""
        import urllib.request

        request = urllib.request.Request(
            f"{self.server.listening_address}{path}",
            json.dumps(question).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: past any proxy
        with opener.open(request, timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
            return found


def _until(ids: list[int], stops: list[int]) -> list[int]:
    """Up to and with the first stop token."""
    for place, token in enumerate(ids):
        if token in stops:
            return ids[: place + 1]
    return ids


def _fits(models: Any, model: Any) -> bool:
    """True when the weights as float32 take less than half of the free memory."""
    return bool(4 * models.parameters(model) < models.free_memory(model.device) // 2)


if __name__ == "__main__":
    protocol.main(work)
