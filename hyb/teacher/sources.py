"""What a teacher is asked about: passages of documents, and the examples of a taxonomy's files.

A knowledge file's documents come from a folder near it, or from a git repository at a commit, fetched once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyb import engine, fs
from hyb.errors import Exit, HybError
from hyb.formats import passages, taxonomy, taxonomy_files

TEXTS = (".md", ".markdown", ".txt", ".rst")


@dataclass(frozen=True)
class Topic:
    """One thing to ask about. `passage` is None for a skill, which `task` describes. `line`: of `source`."""

    source: str
    line: int
    passage: passages.Passage | None = None
    task: str = ""
    examples: tuple[taxonomy.Example, ...] = ()


def read(path: Path, cache: Path, *, offline: bool) -> list[Topic]:
    """The topics of a taxonomy, or of a file or folder of texts. Raises HybError when there is nothing to ask."""
    files = taxonomy_files.files(path)
    found = list(_taxonomy(files, cache, offline)) if files else list(_texts(path))
    if not found:
        raise HybError(
            f"`{path}` has no passage to ask about",
            hint=f"give a taxonomy, or texts ({', '.join(TEXTS)}, .pdf) of {passages.LEAST} words and more",
        )
    return found


def _texts(path: Path, patterns: Sequence[str] = (), name: str = "") -> Iterator[Topic]:
    """Topics of the texts at a path; `patterns`: only files that match one; `name`: before their names."""
    inside = path if path.is_dir() else path.parent
    files = sorted(p for p in _matching(path, patterns) if p.is_file()) if path.is_dir() else [path]
    for file in files:
        inner = file.relative_to(inside)
        if any(part.startswith(".") for part in inner.parts) or not file.resolve().is_relative_to(inside.resolve()):
            continue
        if file.suffix.lower() in (*TEXTS, ".pdf"):
            for passage in passages.split(text_of(file)):
                yield Topic(f"{name}{inner.as_posix()}", passage.line, passage)


def _matching(folder: Path, patterns: Sequence[str]) -> set[Path]:
    """What is below a folder; `patterns`: from the folder on, as InstructLab reads them (`a.md` is not `docs/a.md`),
    but at any depth where they find nothing so."""
    try:
        found = {p for pattern in patterns or ("**/*",) for p in folder.glob(pattern)}
        return found or {p for pattern in patterns for p in folder.rglob(pattern)}
    except (ValueError, NotImplementedError) as error:  # an absolute one, or `a**b`
        raise HybError(f"`document.patterns` {list(patterns)}: {str(error).lower()}") from error


def text_of(file: Path) -> str:
    """The text of a document. Raises HybError."""
    if file.suffix.lower() == ".pdf":
        return _pdf(file)
    try:
        with fs.explained(f"can't read `{file}`"):
            return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HybError(f"`{file}` is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error


def _pdf(file: Path) -> str:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise HybError(f"`{file}` needs the package `pypdf`", hint="pip install 'hyb[data]'") from error
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(file).pages)
    except (PyPdfError, ValueError, OSError, RecursionError) as error:
        raise HybError(f"`{file}` can't be read as PDF: {error}", hint="turn it into Markdown") from error


def _taxonomy(files: Sequence[taxonomy_files.File], cache: Path, offline: bool) -> Iterator[Topic]:
    for file in files:
        found = taxonomy_files.read(file)
        if found.leaf is None:
            raise HybError(f"`{file.path}` can't be used", details=found.said(), hint="`hyb data lint` shows all")
        leaf = found.leaf
        if leaf.kind == taxonomy.SKILL:
            yield Topic(file.name, leaf.examples[0].line, None, leaf.task, leaf.examples)
        elif leaf.source:
            folder = _documents(file, leaf.source, cache, offline)
            name = f"{file.name.removesuffix(taxonomy.FILE)}"
            for topic in _texts(folder, leaf.source.patterns, name):
                yield Topic(topic.source, topic.line, topic.passage, leaf.task, leaf.examples)


def _documents(file: taxonomy_files.File, source: taxonomy.Source, cache: Path, offline: bool) -> Path:
    """The folder with a knowledge file's documents. Raises HybError: exit 6 when offline and not fetched before."""
    if source.path:
        near = file.path.parent / source.path
        if not near.exists():
            raise HybError(f"`{file.path}`: its `document.path` names `{near}`, which is not there")
        return near
    return fetch(source.repo, source.commit, cache, offline=offline)


def fetch(repo: str, commit: str, cache: Path, *, offline: bool) -> Path:
    """A checkout of a git repository at a commit, made once. Raises HybError: exit 6 when offline, exit 5 by git."""
    if repo.startswith("-") or "::" in repo:
        raise HybError(f"`{repo}` is no repository to fetch from")
    if not taxonomy.COMMIT.fullmatch(commit):
        raise HybError(
            f"`{repo}` at `{commit}`: no full commit id", hint="a branch or tag moves; write its 40 digits as `commit`"
        )
    folder = cache / "git" / commit
    if (folder / ".hyb-whole").exists():
        return folder
    if offline:
        raise HybError(
            f"offline, and `{repo}` at `{commit[:12]}` was not fetched before",
            hint="run it once with a network, or give the documents as `document: {path: …}`", code=Exit.OFFLINE,
        )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)  # half of one: git would trip over the locks of its killed forerunner
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_LFS_SKIP_SMUDGE": "1"}
    engine.run(["git", "init", "-q", str(folder)], env=quiet)
    engine.run(["git", "-C", str(folder), "fetch", "-q", "--depth=1", repo, commit], env=quiet, timeout=600)
    engine.run(["git", "-C", str(folder), "checkout", "-q", "--force", "FETCH_HEAD"], env=quiet)
    (folder / ".hyb-whole").touch()
    return folder
