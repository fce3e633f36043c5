"""Which files of a model's folder a causal LM needs, and which are refused. Pure.

Weights are safetensors or GGUF. Pickle can run code when it is loaded: it is never taken, and a model that has
nothing else is refused. Python files are never taken; a model that needs them (`auto_map`) is refused after its
configuration has been read, see `hyb.hub.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hyb.artifact import safe_path
from hyb.errors import HybError

PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".npz")
INDEX = "model.safetensors.index.json"
SIGNATURE = "model.sig"
"""What a publisher calls a signature in the model-signing format; it is kept beside the model, not in it."""
CONFIGS = frozenset(
    {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
        "chat_template.jinja", "chat_template.json", INDEX,
    }
)  # fmt: skip
_DOC = re.compile(r"(licen[cs]e|notice|use_policy|readme)([._-][^/]*)?", re.IGNORECASE)
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def select(paths: Iterable[str], what: str, *, gguf: str = "") -> list[str]:
    """The paths to take, sorted. `what`: the source, for messages. `gguf`: the one GGUF that was asked for, or "".

    Raises HybError (exit 3) when there are no weights to take, or no way to choose among them.
    """
    names = sorted(safe_path(p) for p in paths)
    top = [n for n in names if "/" not in n]
    docs = [n for n in top if _DOC.fullmatch(n) or n == SIGNATURE]
    if gguf:
        if gguf not in names:
            raise HybError(f"`{what}`: there is no file `{gguf}`", hint=_list(_ggufs(names)))
        return sorted({_whole(gguf, what), *docs})
    if weights := _safetensors(top, what):
        if "config.json" not in top:
            raise HybError(
                f"`{what}` has weights but no `config.json`", hint="it is no model in the Hugging Face layout"
            )
        index = INDEX if len(weights) > 1 else ""
        return sorted({*weights, *docs, *(n for n in top if n in CONFIGS and (n != INDEX or n == index))})
    return sorted({_one_gguf(names, what), *docs})


def _safetensors(top: Sequence[str], what: str) -> list[str]:
    """`model.safetensors`, or else a whole set of shards. Duplicates (`consolidated.safetensors`) are left out."""
    if "model.safetensors" in top:
        return ["model.safetensors"]
    shards = [n for n in top if _SHARD.fullmatch(n)]
    if not shards:
        return []
    count = shards[0][-17:-12]
    missing = sorted({f"model-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)} - set(shards))
    if INDEX not in top:
        missing.append(INDEX)
    if missing:
        raise HybError(f"`{what}` is not whole: {len(missing)} files of its weights are missing", details=missing[:10])
    return shards


def _one_gguf(names: Sequence[str], what: str) -> str:
    ggufs = _ggufs(names)
    if len(ggufs) == 1:
        return _whole(ggufs[0], what)
    if ggufs:
        choice = f"`{what}/{ggufs[0]}`" if what.startswith("hf://") else f"`file:…/{ggufs[0]}`"
        raise HybError(f"`{what}` has {len(ggufs)} GGUF files", hint=f"say which, e.g. {choice}", details=ggufs[:20])
    raise _no_weights(names, what)


def _no_weights(names: Sequence[str], what: str) -> HybError:
    if "adapter_config.json" in names:
        return HybError(f"`{what}` is an adapter, not a model", hint="pull the base model that it was trained on")
    if pickles := [n for n in names if n.endswith(PICKLE)]:
        return HybError(
            f"`{what}` has its weights only as pickle, which can run code when it is loaded: refused",
            hint="take a revision or a copy of the model with safetensors; many have one on the branch `refs/pr/1`",
            details=pickles[:10],
        )
    if others := [n for n in names if n.endswith(".safetensors")]:
        return HybError(
            f"`{what}` has no `model.safetensors` and no `model-00001-of-….safetensors`",
            hint="hyb takes causal language models in the Hugging Face layout",
            details=others[:10],
        )
    return HybError(f"`{what}` has no weights: neither safetensors nor GGUF", details=list(names[:10]))


def _ggufs(names: Iterable[str]) -> list[str]:
    return [n for n in names if n.endswith(".gguf") and not n.rpartition("/")[2].startswith("mmproj")]


def _whole(name: str, what: str) -> str:
    if _SPLIT.search(name):
        raise HybError(
            f"`{what}`: `{name}` is one part of a split GGUF", hint="take one that is whole, or the safetensors model"
        )
    return name


def _list(names: Sequence[str]) -> str:
    return f"there is: {', '.join(f'`{n}`' for n in names[:10])}" if names else "there is no GGUF in it"
