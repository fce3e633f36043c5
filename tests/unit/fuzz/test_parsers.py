"""The parsers that are ours, against bytes that nobody thought of: an answer or a HybError, never anything else.

hypothesis draws the inputs: seeds of each format with bytes flipped, cut, doubled and put in, and free ones. What was
found once lies in tests/data/corpus/PARSER/ and is tried first, each time. `HYB_FUZZ` says how many inputs a parser.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyb import digest, lock
from hyb.artifact import parse, safe_path
from hyb.errors import HybError
from hyb.formats import (
    bundle,
    chat,
    chat_files,
    chat_shapes,
    gate,
    intoto,
    oci,
    pairs,
    tar_read,
    taxonomy,
    trust,
    yaml_lines,
)
from hyb.hub import checks, names
from hyb.printable import json_text, printable
from hyb.serving import terminal
from hyb.signing import dsse
from tests.hubserver import safetensors

CORPUS = Path(__file__).parents[2] / "data" / "corpus"
GGUF = (
    b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, 1) + b"v"
    + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 0) + bytes(32)
)  # fmt: skip
DIGEST = "sha256:" + "0" * 64
MANIFEST = json.dumps(
    {
        "schemaVersion": 2, "config": {"mediaType": "x", "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": "x", "digest": DIGEST, "size": 1, "annotations": {"org.cncf.model.filepath": "a/b"}}],
        "annotations": {"io.hyb.meta": "{}", "io.hyb.kind": "model", "io.hyb.needs": DIGEST},
        "subject": {"digest": DIGEST},
    }
).encode()  # fmt: skip
LOCK = json.dumps(
    {"hyb": 1, "pins": {"a": "b"}, "stages": {"s": {"stage": "pull", "key": DIGEST, "inputs": {}, "output": DIGEST}}}
).encode()
RECIPE = b"hyb: 1\nname: r\nstages:\n  a: {stage: data, source: 'x', holdout: 0.2}\n  b:\n    - [1, no, ~]\n"


TURNS = [
    {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "r"},
    {"role": "assistant", "content": "one two", "reasoning_content": "hm", "weight": 1,
     "train_detail": [{"begin_offset": 0, "end_offset": 2, "train": True}]},
]  # fmt: skip
SHAPES = [
    {"messages": TURNS, "tools": [{"name": "f"}], "unmask": True, "expect": "one"},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s", "kto_tag": True},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {
        "input": {"messages": TURNS[:2]},
        "preferred_output": TURNS[4:],
        "non_preferred_output": [{"role": "ai", "content": "b"}],
    },
    {
        "prompt": {
            "role": "prompter",
            "text": "q",
            "replies": [{"role": "assistant", "text": "a", "rank": 0, "replies": []}],
        }
    },
    {"instruction": "q", "input": "i", "output": "a", "history": [["x", "y"]]},
    {"prompt": "q", "completions": ["a"], "labels": [True]},
    {"segments": [{"label": True, "text": "x"}]},
    {"input_ids": [1, 2], "labels": [-100, 2]},
    {"text": "x", "label": 1},
]
TAXONOMY = b"""version: 3
created_by: me
task_description: be kind
seed_examples:
  - question: q
    answer: yes
"""
TRUST = b"""hyb-trust: 1
keys:
  lab: {file: lab.pub, expires: 2027-02-01}
  2: {pem: x, revoked: true}
rules:
  - {pattern: "a/*", keys: [lab], mode: enforce}
default: off
"""
PART = {"name": f"b-{'0' * 8}.0001.tar", "length": 1024, "size": 1024, "sha256": DIGEST}
PIECE = {"item": DIGEST, "part": 1, "offset": 512, "at": 0, "size": 3, "digest": DIGEST}
BUNDLE = json.dumps(
    {
        "hyb-bundle": 1, "name": "b", "id": "0" * 64, "base": None, "sealed": None, "python": None, "platforms": ["x"],
        "contents": [{"digest": DIGEST, "kind": "model", "names": ["b/m"]}], "files": {"recipe/hyb.yaml": DIGEST},
        "steps": {DIGEST: {"stage": "pull", "output": DIGEST}}, "items": {DIGEST: 3}, "assumes": {}, "left_out": [],
        "parts": [PART], "pieces": [PIECE],
    }
).encode()  # fmt: skip
RESOURCE = {"name": "m", "uri": "file:m", "digest": {"sha256": "0" * 64}, "annotations": {"pinned": "p", "value": 1}}
PROGRAM = {"name": "torch", "uri": "pkg:pypi/torch@2", "annotations": {"version": "2"}}
STATEMENT = json.dumps(
    {
        "_type": intoto.STATEMENT, "predicateType": intoto.PREDICATE, "subject": [RESOURCE],
        "predicate": {
            "buildDefinition": {"buildType": "urn:hyb:stage:pull", "externalParameters": {},
                                "resolvedDependencies": [RESOURCE]},
            "runDetails": {"builder": {"id": "hyb", "version": {"hyb": "1"}, "builderDependencies": [PROGRAM]},
                           "metadata": {"startedOn": "x"}, "byproducts": [RESOURCE]},
        },
    }
).encode()  # fmt: skip
SIGNATURE = json.dumps(
    {
        "mediaType": dsse.BUNDLE, "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {"payload": "eA==", "payloadType": "t", "signatures": [{"sig": "eA==", "keyid": ""}]},
    }
).encode()  # fmt: skip


def tar() -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("ü" * 120)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"12345"))
    return out.getvalue()


def from_file(check: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.jsonl"
            path.write_bytes(data)
            return check(path)

    return run


def read_tar(data: bytes) -> object:
    try:
        return [(m.name, len(m.content.read(1 << 20))) for m in tar_read.members(io.BytesIO(data))]
    except tar_read.TarError:
        return None


def read_yaml(data: bytes) -> object:
    try:
        return yaml_lines.load(data.decode(errors="replace"))
    except yaml_lines.YamlError:
        return None


def read_rows(path: Path) -> object:
    mistakes = chat_files.Mistakes()
    return list(chat_files.rows(chat_files.Named("x.jsonl", path), mistakes)), mistakes


def read_shapes(data: bytes) -> object:
    """Rows of every shape; what is made of one is read again as the same."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for one in value if isinstance(value, list) else [value]:
        try:
            row = chat_shapes.normalise(one)
            body = digest.canonical_json(row.body())
        except (chat.RowError, UnicodeEncodeError):  # half a character, which the reader of files refuses
            continue
        again = chat_shapes.normalise(json.loads(digest.canonical_json(row.as_json("f", 1))))
        assert digest.canonical_json(again.body()) == body
    return value


def read_table(suffix: str) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(data)
            return list(chat_files.rows(chat_files.Named(path.name, path), chat_files.Mistakes()))

    return run


def read_manifest(data: bytes) -> object:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parse(DIGEST, value)


def read_trust(data: bytes) -> object:
    try:
        policy, _ = trust.parse(data.decode(errors="replace"))
    except yaml_lines.YamlError:
        return None
    return policy.rules_for(["a/b", "c"])


def read_statement(data: bytes) -> object:
    """Whoever reads a statement asks for its mistakes first; without any, each of its parts can be read."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if intoto.mistakes(value):
        return None
    parts = (intoto.subjects, intoto.inputs, intoto.sources, intoto.pins, intoto.programs, intoto.facts, intoto.stage)
    return [part(value) for part in parts], intoto.metadata(value, "startedOn")


def read_chat(data: bytes) -> object:
    text = data.decode(errors="replace")
    with_json = [lambda: terminal.read(text, ".json"), lambda: terminal.read(text, ".md")]
    for one in with_json:
        try:
            one()
        except HybError:
            continue
    return None


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "safetensors": (from_file(checks.safetensors), safetensors({"a": (2, 2), "b": (3,)})),
    "gguf": (from_file(checks.gguf), GGUF),
    "json": (from_file(checks.json_file), b'{"a": [1, {"b": null}]}'),
    "manifest": (read_manifest, MANIFEST),
    "lock": (from_file(lock.read), LOCK),
    "yaml": (read_yaml, RECIPE),
    "tar": (read_tar, tar()),
    "rows": (from_file(read_rows), b'{"prompt": "q", "completion": "a"}\n{"messages": []}\n'),
    "shapes": (read_shapes, json.dumps(SHAPES).encode()),
    "object": (read_table(".json"), b'\n{"version": 1, "data": [{"question": "q", "answer": "a"}]}'),
    "columns": (read_table(".json"), b'{"question": {"0": "q", "1": "r"}, "answer": {"0": "a", "1": "b"}}'),
    "array": (read_table(".json"), b'[{"question": "q", "answer": "a"},\n {"text": "x"}]'),
    "table": (read_table(".csv"), b'\xef\xbb\xbfsep=;\r\nquestion;answer;;\r\n"a\nb";c;;\r\n'),
    "gzip": (read_table(".jsonl.gz"), gzip.compress(b'{"question": "q", "answer": "a"}\n', mtime=0)),
    "taxonomy": (lambda data: taxonomy.read(data.decode(errors="replace")), TAXONOMY),
    "pairs": (lambda data: pairs.parse(data.decode(errors="replace")), b'Q: a\nA: b\n{"question": "c", "answer": 1}'),
    "chat": (read_chat, b'{"messages": [{"role": "user", "content": "x"}]}\n## user\n\nx\n'),
    "bundle": (lambda data: bundle.parse(data, "x"), BUNDLE),
    "inventory": (lambda data: bundle.parse_since(data, "x"), bundle.dump_inventory({DIGEST: 3})),
    "trust": (read_trust, TRUST),
    "statement": (read_statement, STATEMENT),
    "signature": (lambda data: dsse.parse(data, "t"), SIGNATURE),
    "source": (lambda data: names.parse(data.decode(errors="replace")), b"hf://org/name@main/file.gguf"),
}  # fmt: skip
COUNT = int(os.environ.get("HYB_FUZZ", "150"))
OPTIONS = settings(
    max_examples=COUNT, deadline=None, database=None, derandomize="HYB_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, seed: bytes) -> bytes:
    """A seed with a few changes, or something else altogether."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "put", "double", "number"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "double":
            data[at:at] = data[at : at + 32]
        else:
            data[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x80", b"99999999"]))
    return bytes(data)


ODD = [None, True, -1, 1 << 70, 0.5, "", "x", "\ud800", "../x", [], [[]], [None], {}, {"": None}, {"digest": 1}]


def places(value: object) -> Iterator[tuple[dict[str, object] | list[object], str | int]]:
    """Every place in a JSON value that holds another."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key  # type: ignore[misc]
        yield from places(inner)


@pytest.mark.parametrize(
    "name", ["shapes", "columns", "manifest", "lock", "bundle", "inventory", "statement", "signature"]
)
def test_another_value_in_any_place_of_a_document_is_an_answer_or_an_error_in_words(name: str) -> None:
    """Every place, each with values that do not belong there, or with nothing at all."""
    parser, seed = PARSERS[name]
    for number in range(sum(1 for _ in places(json.loads(seed)))):
        for odd in [*ODD, ...]:
            value = json.loads(seed)
            holder, key = list(places(value))[number]
            if odd is ...:
                del holder[key]  # type: ignore[arg-type]
            else:
                holder[key] = odd  # type: ignore[index, call-overload]
            told(parser, json.dumps(value).encode())


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_comes_is_an_answer_or_an_error_in_words(name: str) -> None:
    parser, seed = PARSERS[name]
    parser(seed)

    @OPTIONS
    @given(st.one_of(spoiled(seed), st.binary(max_size=200)))
    def each(data: bytes) -> None:
        told(parser, data)

    each()


def told(parser: Callable[[bytes], object], data: bytes) -> None:
    try:
        parser(data)
    except HybError as error:
        assert printable(error.message)


def corpus() -> Iterator[tuple[str, Path]]:
    for path in sorted(CORPUS.rglob("*")):
        if path.is_file():
            yield path.parent.name, path


@pytest.mark.parametrize(("name", "path"), list(corpus()), ids=lambda x: x if isinstance(x, str) else x.name)
def test_what_was_found_once_stays_mended(name: str, path: Path) -> None:
    told(PARSERS[name][0], path.read_bytes())


@OPTIONS
@given(st.text(max_size=60))
@example("a/../b")
@example("/a")
@example("\x1b[2J")
def test_a_safe_path_stays_inside_and_can_be_shown(text: str) -> None:
    try:
        path = safe_path(text)
    except HybError:
        return
    assert (Path("/home/x") / path).resolve().is_relative_to("/home/x")
    assert path == printable(path)


@OPTIONS
@given(st.text())
def test_what_is_shown_never_holds_a_control_character_and_json_says_the_same(text: str) -> None:
    assert not set(printable(text)) & {chr(c) for c in (*range(9), *range(11, 32), *range(127, 160), 0x202E)}
    assert json.loads(json_text(json.dumps(text, ensure_ascii=False))) == text


@OPTIONS
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_canonical_json_has_one_form_for_one_value(value: object) -> None:
    try:
        data = digest.canonical_json(value)
    except UnicodeEncodeError:
        return  # half of a character: nobody gets that far with one
    assert digest.canonical_json(json.loads(data)) == data


@OPTIONS
@given(st.text(max_size=40), st.text(max_size=20))
def test_a_gate_and_an_index_of_any_text_are_errors_in_words(left: str, right: str) -> None:
    for call in (lambda: gate.parse({left: right}), lambda: oci.choose({"manifests": [{left: right}]}, "amd64")):
        try:
            call()
        except (HybError, ValueError, KeyError):
            continue
