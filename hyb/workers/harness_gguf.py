"""A GGUF in llama.cpp as a model of lm-evaluation-harness. Imported by `harness` where one is asked.

Log-probabilities are those of hyb.workers.llama_reader: of the very engine that will serve the file. Texts are
tokenized as the harness does it with transformers: no BOS, special tokens by their words; an empty context is BOS (or
the end of text, where there is none). What is longer than the context loses its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hyb.workers import protocol
from hyb.workers.llama_reader import Reader

GENERATED = 256  # tokens of an answer where the task does not say


class GgufLM(TemplateLM):  # type: ignore[misc]  # the harness has no types here
    """`metadata`: of the file; `context`: tokens."""

    def __init__(self, reader: Reader, metadata: Mapping[str, Any], context: int) -> None:
        super().__init__()
        self.reader, self.context = reader, context
        ids = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
        self.prefix, self.end = next((i for i in ids if i is not None), 0), ids[1] if ids[1] is not None else 0

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return int(self.end)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is."""
        return int(self.prefix)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_kwargs: Any) -> list[int]:
        """Ids of a text."""
        return self.reader.ids(string, special=bool(add_special_tokens))

    def _loglikelihood_tokens(self, requests: Any, **_kwargs: Any) -> list[tuple[float, bool]]:
        found = []
        for number, (_, context, continuation) in enumerate(requests):
            found.append(self._likelihood(context, continuation))
            protocol.progress("reading the tasks' texts", number + 1, len(requests), "text")
        return found

    def _likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """(log p of the continuation, whether each of its tokens is the likeliest)."""
        whole = [*context, *continuation][-self.context :]
        start = max(1, len(whole) - len(continuation))
        told = self.reader.likelihood(whole, start)
        return sum(log for log, _ in told), all(best for _, best in told)

    def loglikelihood_rolling(self, requests: Any, **_kwargs: Any) -> list[float]:
        """log p of whole texts, in windows of the context."""
        found = []
        for (text,) in (r.args for r in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.context - 1, 1)
            pairs = [make_disjoint_window(w) for w in windows]
            found.append(sum(self._likelihood(list(a), list(b))[0] for a, b in pairs))
        return found

    def generate_until(self, requests: Any, **_kwargs: Any) -> list[str]:
        """Answers, greedy, up to what the task says."""
        found = []
        for number, (text, how) in enumerate(r.args for r in requests):
            until = how.get("until") or []
            count = int(how.get("max_gen_toks", GENERATED))
            ids = self.tok_encode(text)[-max(1, self.context - count) :]
            stops = [until] if isinstance(until, str) else list(until)
            found.append(self.reader.answer(ids, count, stops))
            protocol.progress("answering the tasks", number + 1, len(requests), "question")
        return found
