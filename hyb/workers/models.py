"""What every torch worker needs: a tokenizer and a causal LM from a folder, offline, quiet, deterministic.

Nothing here reaches the network or runs code from a model folder: `local_files_only`, safetensors only,
`trust_remote_code` never.

bitsandbytes 0.50.2 repacks a 4-bit layer's weights at its first forward in eval mode on CPUs with AVX512-BF16; from
then on its forward has no gradient and a merge reads garbage. `load_causal_lm` switches that off, layer by layer,
before any forward (`cure_cpu_packing`). CUDA is not affected.
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from hyb import templates
from hyb.workers import weights
from hyb.workers.protocol import Failed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE = "Hello world,  3 spaces\n\nand 42 ünïcödé words"

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pick_device(device: str = "auto", index: int = 0) -> torch.device:
    """`auto` (CUDA when there is any), `cpu` or `cuda`; `index`: which GPU. Raises Failed when it is absent."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise Failed("no CUDA device is to be used here", hint="choose `device: cpu`, or see `hyb doctor`")
    if device == "cuda" and index >= torch.cuda.device_count():
        raise Failed(
            f"there are {torch.cuda.device_count()} GPUs, and {index + 1} or more are asked for",
            hint="`gpus`",
            alone=True,
        )
    return torch.device(device, index) if device == "cuda" else torch.device(device)  # `set_device` wants the index


def compute_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on the CPU, where bfloat16 has half the speed of float32."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def make_deterministic(seed: int, threads: int = 0, *, strict: bool = False, share: int = 1) -> None:
    """Seed everything and take deterministic kernels where there are any; `threads` 0 means those that we may use,
    divided among `share` processes. `strict`: a kernel that is not deterministic is an error.

    On one machine's CPU the same job then gives the same bytes. CUDA: close, not promised unless `strict`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at CUDA's first matrix product
    torch.set_num_threads(threads or max(1, usable_cores() // share))
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # costs time, and nothing here reads what it did not write
    )
    torch.backends.cudnn.benchmark = False
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


def usable_cores() -> int:
    """Threads worth starting: torch's own choice, but no more than our CPU affinity and cgroup quota allow."""
    cores: int = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder, checked by a round trip; a family's with its pinned template to ask with.

    Raises Failed.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"the tokenizer of `{folder}` can't be loaded: {_line(error)}") from error
    ids = tokenizer.encode(_PROBE, add_special_tokens=False)
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if back.strip() != _PROBE:  # a tokenizer class that overrides what tokenizer.json says loses spaces in silence
        raise Failed(
            f"the tokenizer of `{folder}` does not give back the text that it was given: {back!r}",
            hint="its `tokenizer_class` does not fit its `tokenizer.json`; `PreTrainedTokenizerFast` may",
        )
    if pinned := templates.pair_of(tokenizer.chat_template):
        tokenizer.chat_template = pinned.inference
    return tokenizer


def load_causal_lm(
    folder: str | Path, *, quantize: str = "none", dtype: str = "auto", device: str | torch.device = "auto"
) -> Any:
    """A causal language model from a folder with safetensors, in eval mode, on `device`.

    `quantize`: "none", or "nf4": all linear layers but the head as NF4, double quantization, computing in `dtype`.
    `dtype`: see `compute_dtype`. Raises Failed: the folder is no such model, or the memory does not suffice.
    """
    place = torch.device(device) if isinstance(device, torch.device) else pick_device(device)
    kind = compute_dtype(place, dtype)
    options: dict[str, Any] = {"quantization_config": nf4_config(kind)} if quantize == "nf4" else {}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=kind,
            device_map={"": place},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=_attention(folder),
            **options,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise Failed(
            f"the model does not fit into the GPU's memory: {room(place)}",
            hint="`quantize: nf4` needs the least; several GPUs can share it (`gpus` and `shard: true`)",
            alone=True,
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise Failed(f"the model in `{folder}` can't be loaded: {_line(error)}") from error
    cure_cpu_packing(model)
    weights.give_back()
    return model.eval()


def _attention(folder: str | Path) -> str:
    """torch's own attention, or the plain one for a model that is written without it (Gemma 2 caps its scores)."""
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(load_config(folder)), None)
    return "sdpa" if getattr(kind, "_supports_sdpa", True) else "eager"


def nf4_config(compute: torch.dtype) -> Any:
    """transformers' setting for NF4 with double quantization."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def nf4_weights(folder: str | Path) -> set[str]:
    """The names of the weights that `load_causal_lm` keeps in 4 bits: of every linear layer but the head."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(load_config(folder))
    head = model.get_output_embeddings()
    linear = (n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return {f"{name}.weight" for name in linear}


def nf4_values(weight: torch.Tensor) -> torch.Tensor:
    """What a weight is as NF4 with double quantization: the same numbers, bit by bit, that `nf4_config` trains on."""
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    values: torch.Tensor = bitsandbytes.functional.dequantize_4bit(packed, state)
    return values


def cure_cpu_packing(model: Any) -> int:
    """Switch off the repacking that loses gradients (see above). Returns how many layers have it off."""
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def attach_adapter(model: Any, folder: str | Path, name: str = "default") -> Any:
    """`model` with the PEFT adapter in `folder` on it as `name`, beside those it has, in eval mode.

    Raises Failed when it does not fit the model.
    """
    import peft

    try:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(folder), adapter_name=name, local_files_only=True)
            return model.eval()
        return peft.PeftModel.from_pretrained(model, str(folder), adapter_name=name, local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Failed(f"the adapter in `{folder}` can't be put on the model: {_line(error)}") from error


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end an answer: the generation config's, the config's and the tokenizer's."""
    return _stops(model.generation_config, model.config, tokenizer)


def load_config(folder: str | Path) -> Any:
    """The config of a model folder. Raises Failed."""
    try:
        return transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"the model in `{folder}` can't be loaded: {_line(error)}") from error


def load_stop_ids(folder: str | Path, config: Any, tokenizer: Any) -> list[int]:
    """What `stop_ids` gives, from a model's folder without its weights. Raises Failed."""
    try:
        found = (Path(folder) / "generation_config.json").exists()
        generation = (
            transformers.GenerationConfig.from_pretrained(str(folder), local_files_only=True) if found else None
        )
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"the model in `{folder}` has a generation config that can't be read: {_line(error)}") from error
    return _stops(generation, config, tokenizer)


def _stops(*sources: Any) -> list[int]:
    found: list[int] = []
    for ids in (getattr(source, "eos_token_id", None) for source in sources):
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return list(dict.fromkeys(found))


def parameters(model: Any) -> int:
    """How many parameters the model has; a 4-bit weight holds two in a byte."""
    return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak so far: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return weights.peak_memory()


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on `device`: on CUDA also what torch holds unused; on the CPU no more than the
    cgroup leaves."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + idle)
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return free


def room(device: torch.device) -> str:
    """What of a device's memory is free, and what others than this process have, for people."""
    if device.type != "cuda":
        return f"{free_memory(device) / 1e9:.1f} GB are free"
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    return taken(free, total, ours)


def taken(free: int, total: int, ours: int) -> str:
    """The same, of a GPU's bytes. A process's own context (about 0.5 GB) counts as nobody's."""
    others = total - free - ours
    said = f"the GPU has {total / 1e9:.1f} GB, of which {free / 1e9:.1f} GB are free and {ours / 1e9:.1f} GB are ours"
    if others > 1e9:
        said += f"; {others / 1e9:.1f} GB are taken by other programs (`nvidia-smi` lists them)"
    return said


def _line(error: Exception) -> str:
    """The first line of what a library said."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
