"""Tasks of lm-evaluation-harness on a model that is loaded already, in torch or in llama.cpp, through its own API.

Nothing is fetched: workers run with the hub offline, so a task's data set must be in the Hugging Face cache, or the
task be one of a folder of one's own that reads local files. Imported by `score` where tasks are asked for.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hyb.workers import protocol
from hyb.workers.protocol import Failed

_FIRST = ("acc_norm", "acc", "exact_match", "f1", "word_perplexity", "perplexity", "bleu")
"""The metric that stands for a task: the first of these that it has, else its first."""


def of_torch(model: Any, tokenizer: Any, batch: int) -> Any:
    """A model of transformers' as the harness takes it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)


def prepared(tasks: Mapping[str, Any]) -> Any:
    """The harness's manager of tasks, by which each of these can be had: known, and with its data here.

    `tasks`: {"names", "folder": of tasks of one's own or "", "limit": documents of each, 0 for all}. Raises Failed, so
    before any model is loaded or asked.
    """
    protocol.progress("tasks of lm-evaluation-harness", 0, len(tasks["names"]), "task", "reading them")
    manager = _manager(tasks)
    if unknown := [n for n in tasks["names"] if n not in manager.all_tasks]:
        near = ", ".join(f"`{n}`" for n in manager.match_tasks([f"{unknown[0][:4]}*"])[:5])
        raise Failed(
            f"lm-evaluation-harness has no task `{unknown[0]}`",
            hint=f"there are {near}" if near else "`tasks_folder` names a folder with tasks of your own",
        )
    if tags := [n for n in tasks["names"] if n in manager.all_tags]:
        raise Failed(f"`{tags[0]}` is a tag that several tasks have, and no task", hint="name the tasks themselves")
    load = getattr(manager, "load", None) or manager.load_task_or_group  # as it was called before 0.4.11
    for name in tasks["names"]:
        with _explained(name):
            load(name)
    return manager


def _manager(tasks: Mapping[str, Any]) -> Any:
    """Of one's own folder alone where that has all of them: the harness's own 14,000 take ten seconds to list."""
    from lm_eval.tasks import TaskManager

    if tasks["folder"]:
        own = TaskManager(include_path=tasks["folder"], include_defaults=False)
        if set(tasks["names"]) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=tasks["folder"] or None)


def run(model: Any, tasks: Mapping[str, Any], manager: Any, *, seed: int) -> dict[str, Any]:
    """`model`: as the harness takes it. `tasks`, `manager`: see `prepared`.

    Returns task → {"metric", "value", "stderr", "metrics"}. Raises Failed.
    """
    results: dict[str, Any] = {}
    for number, name in enumerate(tasks["names"]):
        results[name] = _one(model, manager, name, int(tasks["limit"]) or None, seed)
        protocol.progress("tasks of lm-evaluation-harness", number + 1, len(tasks["names"]), "task")
    return results


def _one(model: Any, manager: Any, name: str, limit: int | None, seed: int) -> dict[str, Any]:
    import lm_eval

    seeds = {
        "random_seed": seed, "numpy_random_seed": seed, "torch_random_seed": seed, "fewshot_random_seed": seed
    }  # fmt: skip
    with _explained(name):
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[name],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=100,
            log_samples=False,
            **seeds,
        )
    return summary(found["results"][name])


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Failed, in words, for what a task's data set or its own code raises."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:  # `datasets` has an error of its own for each way
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failed(
            f"task `{name}` can't be run: {said}",
            hint="its data set must be here: fetch it into the Hugging Face cache while online (HF_HOME), or name a "
            "`tasks_folder` whose tasks read local files",
        ) from error


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """One task's results, `{"acc,none": 0.5, "acc_stderr,none": 0.1}` → its first metric, and all of them."""
    metrics = {
        key.partition(",")[0]: float(value)
        for key, value in result.items()
        if "," in key and isinstance(value, (int, float)) and math.isfinite(value)
    }
    plain = [m for m in metrics if not m.endswith("_stderr")]
    if not plain:
        raise Failed("a task gave no number")
    metric = next((m for m in _FIRST if m in plain), plain[0])
    rounded = {m: round(v, 4) for m, v in metrics.items()}
    return {
        "metric": metric, "value": rounded[metric], "stderr": rounded.get(f"{metric}_stderr"), "metrics": rounded
    }  # fmt: skip
