"""Tables, packed files and renamed columns become rows like any other; what is broken is told with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.formats import columns
from hyb.formats.chat_files import Mistakes, files, rows

GOOD = '{"question": "q", "answer": "a"}'


def read(path: Path, **options: Any) -> tuple[list[tuple[int, str, str]], list[str]]:
    """(line, question, answer) of the good rows, and the mistakes."""
    mistakes = Mistakes()
    found = [
        (r.line, r.row.question[-1]["content"], r.row.answer)
        for named in files(path)
        for r in rows(named, mistakes, **options)
    ]
    return found, mistakes.shown


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_a_table_is_read_whatever_its_delimiter(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_text(
        f'\ufeffquestion{mark}answer\r\nq1{mark}a1\r\n\r\n"q2\nmore{mark}"{mark}a2\r\nq3{mark}a3'
    )
    found, mistakes = read(tmp_path / name)
    assert (found, mistakes) == ([(2, "q1", "a1"), (4, f"q2\nmore{mark}", "a2"), (6, "q3", "a3")], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question,answer\nq,a,b\n", "a.csv:2: has 3 cells, the header has 2"),
        ("question,answer\nq,\n", "a.csv:2: has no answer"),
        ("question,question\nq,a\n", "a.csv:1: names the column `question` more than once"),
        ('question,answer\nq,"a\n', "a.csv:2: is broken CSV"),
        ('question,answer\nq,"a" b\nq,a\n', "a.csv:2: is broken CSV"),
        ("messages,x\n[broken,1\n", "a.csv:2: `messages` is a text"),
        ("question,answer,,\nq,a,,x\n", "a.csv:2: has a cell in a column without a name"),
        ("sep=,\nquestion,question\nq,a\n", "a.csv:2: names the column"),
    ],
)
def test_a_broken_table_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    found, mistakes = read(tmp_path / "a.csv")
    assert found == [] and mistakes[0].startswith(said)


def test_what_a_spreadsheet_adds_around_a_table_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffsep=;\r\nquestion;answer;;\r\nq;a;;\r\n", newline="")
    assert read(tmp_path / "a.csv") == ([(3, "q", "a")], [])


def test_a_cell_that_is_no_utf_8_spoils_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question,answer\ncaf\xe9,a\nq,a\n")
    found, mistakes = read(tmp_path / "a.csv")
    assert found == [(3, "q", "a")] and mistakes == [
        "a.csv:2: is not UTF-8 in column `question`; save the file as UTF-8"
    ]


def test_a_cell_may_hold_messages_as_json_and_a_verdict_as_a_word(tmp_path: Path) -> None:
    said = json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages,label\n"{said}",True\n')
    assert read(tmp_path / "a.csv") == ([(2, "q", "a")], [])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_columnar_file_is_read_with_nested_values(tmp_path: Path, suffix: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    said = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}] for n in range(600)]
    table, path = pa.table({"messages": said}), tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    found, mistakes = read(path)
    assert (len(found), found[599], mistakes) == (600, (600, "q599", "a"), [])


def test_nulls_that_a_column_puts_into_its_objects_are_no_arguments(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def row(**arguments: int) -> dict[str, Any]:
        call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
        said: list[dict[str, Any]] = [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}
        ]  # fmt: skip
        return {"messages": said}

    pq.write_table(pa.Table.from_pylist([row(a=1), row(b=2)]), tmp_path / "a.parquet")
    mistakes = Mistakes()
    (named,) = files(tmp_path / "a.parquet")
    found = [r.row.messages[1]["tool_calls"][0]["function"]["arguments"] for r in rows(named, mistakes)]
    assert (found, mistakes.shown) == ([{"a": 1}, {"b": 2}], [])


def test_a_columnar_file_with_a_column_twice_or_that_is_none_is_an_error_in_words(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["q"], ["a"], ["b"]], names=["question", "answer", "answer"]), path)
    with pytest.raises(HybError, match="names the column `answer` more than once"):
        read(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(HybError, match="Git LFS's pointer"):
        read(path)


def test_a_damaged_parquet_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(HybError, match="can't be read"):
        read(tmp_path / "a.parquet")


def pack(path: Path, data: bytes) -> None:
    from backports import zstd

    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else zstd.compress(data))


@pytest.mark.parametrize("packed", ["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", f"{GOOD}\n"), ("a.json", f"[{GOOD}]"), ("a.csv", "question,answer\nq,a\n")]
)
def test_a_packed_file_is_read_as_what_is_in_it(tmp_path: Path, packed: str, name: str, text: str) -> None:
    path = tmp_path / f"{name}.{packed}"
    pack(path, b"\xef\xbb\xbf" + text.encode())
    found, mistakes = read(tmp_path)
    assert ([f[1:] for f in found], mistakes) == ([("q", "a")], [])


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_packed_file_that_was_cut_off_is_an_error_in_words(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.jsonl.{packed}"
    pack(path, "".join(f'{{"question": "q{n}", "answer": "{n * 7919}"}}\n' for n in range(5000)).encode())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(HybError, match=r"broken|can't read"):
        read(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(HybError, match=r"broken|can't read"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_packed_as_its_name_says_is_an_error_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(HybError, match=r"packed, but broken: (Not a gzipped file|Unable to decompress)"):
        read(tmp_path / name)


def test_columns_are_renamed_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Frage": "q", "meta": {"Antwort": "a"}}\n{"Frage": "q"}\n')
    mapper = columns.given({"question": "Frage", "answer": "meta.Antwort", "system": "Rolle"})
    found, mistakes = read(tmp_path, renamed=mapper)
    assert found == [(1, "q", "a")]
    assert mistakes == ["a.jsonl:2: has no column `meta.Antwort`; it has `Frage`"]


def test_a_dataset_info_of_llama_factory_names_files_columns_and_tags(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('[{"q": "q1", "a": "a1"}]')
    turns = [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]
    (tmp_path / "two.jsonl").write_text(json.dumps({"dialog": turns}))
    (tmp_path / "stray.jsonl").write_text("{}")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "one": {"file_name": "one.json", "columns": {"prompt": "q", "response": "a"}},
        "two": {"file_name": "two.jsonl", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags},
        "far": {"hf_hub_url": "org/name"},
        "out": {"file_name": "../etc/passwd.json"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    found, mistakes = read(tmp_path)
    assert ([f[1:] for f in found], mistakes) == ([("q1", "a1"), ("q2", "a2")], [])
