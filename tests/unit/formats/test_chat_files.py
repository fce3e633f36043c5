"""Files of chat data: lines, arrays, folders; each mistake with its file and line; memory bounded."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.formats import chat_files
from hyb.formats.chat_files import Mistakes, Named, files, rows

GOOD = '{"question": "q", "answer": "a"}'


def read(path: Path, data: bytes | str, **options: int) -> tuple[list[tuple[int, str]], list[str]]:
    """(line, answer) of the good rows, and the mistakes."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    mistakes = Mistakes()
    found = [(r.line, r.row.answer) for r in rows(Named(path.name, path), mistakes, **options)]
    return found, mistakes.shown


def test_lines_are_read_with_their_numbers_and_blank_ones_left_out(tmp_path: Path) -> None:
    found, mistakes = read(tmp_path / "a.jsonl", f"{GOOD}\n\n  \r\n{GOOD}\r\n{GOOD}")
    assert (found, mistakes) == ([(1, "a"), (4, "a"), (5, "a")], [])


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD.encode()) == ([(1, "a")], [])


def test_all_mistakes_of_a_file_are_reported_and_the_good_rows_still_read(tmp_path: Path) -> None:
    lines = [GOOD, "{broken", GOOD, "[1]", '{"question": "q", "answer": NaN}', '{"question": "q"}']
    found, mistakes = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert [line for line, _ in found] == [1, 3]
    assert [m.split(": ", 1)[0] for m in mistakes] == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:5", "a.jsonl:6"]
    assert "broken JSON" in mistakes[0]
    assert "NaN is no JSON" in mistakes[2]


def test_the_byte_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    data = GOOD.encode() + b'\n{"question": "caf\xe9", "answer": "a"}'
    _, mistakes = read(tmp_path / "a.jsonl", data)
    assert mistakes == [f"a.jsonl:2: is not UTF-8: byte 0xe9 at offset {data.index(0xE9)}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "q", "answer": "\\ud800"}', "half a surrogate pair"),
        ("[" * 100_000, "nested too deep"),
        ('{"question": "q", "answer": ' + "9" * 5000 + "}", "broken JSON"),
        ('{"question": "q", "answer": "a", "answer": "b"}', "stands twice"),
        ("{", "a row stands on one line"),
    ],
)
def test_json_that_python_would_choke_on_later_is_refused_at_its_line(tmp_path: Path, text: str, said: str) -> None:
    _, mistakes = read(tmp_path / "a.jsonl", GOOD + "\n" + text)
    assert len(mistakes) == 1
    assert mistakes[0].startswith("a.jsonl:2:")
    assert said in mistakes[0]


def test_utf_16_is_named_as_what_it_is(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", GOOD.encode("utf-16"))[1] == ["a.jsonl:1: is UTF-16; save the file as UTF-8"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_over_the_limit_is_reported_and_the_next_one_read(tmp_path: Path, name: str) -> None:
    long = json.dumps({"question": "q", "answer": "x" * 200_000})
    data = f"{GOOD}\n{long}\n{GOOD}\n" if name.endswith("l") else f"[{GOOD},\n{long},\n{GOOD}]"
    found, mistakes = read(tmp_path / name, data, limit=100_000)
    assert found == [(1, "a"), (3, "a")]
    assert mistakes == [f"{name}:2: is longer than 100000 bytes (`max_line`)"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_line_of_100_mb_takes_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as out:
        out.write(b"[" if name.endswith("n") else b"")
        out.write(b'{"question": "q", "answer": "')
        for _ in range(100):
            out.write(b"x" * (1 << 20))
        out.write(b'"}' + (b"]" if name.endswith("n") else b"\n"))
    tracemalloc.start()
    mistakes = Mistakes()
    assert list(rows(Named(name, path), mistakes)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mistakes.shown == [f"{name}:1: is longer than 16 MiB (`max_line`)"]
    assert peak < 48 << 20, "the limit, and what a growing buffer takes beside it"


def test_an_array_gives_the_line_on_which_each_row_starts(tmp_path: Path) -> None:
    tricky = {"question": 'a "quoted\\" ] } , [ {', "answer": "\\"}
    text = json.dumps([tricky, {"question": "q", "answer": "a"}] * 3000, indent=1)
    found, mistakes = read(tmp_path / "a.json", "\n\n" + text)
    assert mistakes == []
    assert [answer for _, answer in found] == ["\\", "a"] * 3000
    lines = ("\n\n" + text).split("\n")
    assert all(lines[line - 1].strip() == "{" for line, _ in found)
    assert len({line for line, _ in found}) == 6000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "never closed"),
        (f"[{GOOD}", "never closed"),
        (f"[{GOOD}] x", "after the end"),
        (f"[{GOOD}] [{GOOD}]", "after the end"),
        (f'[{{"question": "x,\n"answer": "b"}},{GOOD}]', "broken JSON"),
    ],
)
def test_a_broken_array_is_reported(tmp_path: Path, text: str, said: str) -> None:
    _, mistakes = read(tmp_path / "a.json", text)
    assert len(mistakes) == 1
    assert said in mistakes[0]


def test_json_lines_in_a_json_file_are_read_as_lines(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", f"{GOOD}\n{GOOD}")[0] == [(1, "a"), (2, "a")]


def test_twenty_mistakes_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" * 57)
    mistakes = Mistakes()
    assert list(rows(Named("a.jsonl", path), mistakes)) == []
    error = mistakes.error("`a.jsonl`")
    assert error.message == "`a.jsonl` has 57 mistakes"
    assert len(error.details) == 21
    assert error.details[-1] == "and 37 more"
    assert "`prompt` + `completion`" in error.hint


def test_a_folder_is_read_by_name_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "sub/c.jsonl", ".hidden.jsonl", ".git/d.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    assert [f.name for f in files(tmp_path)] == ["a.json", "b.jsonl", "sub/c.jsonl"]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("q,a")
    with pytest.raises(HybError, match="is no data set that hyb reads"):
        files(tmp_path / "rows.xlsx")
    (tmp_path / "rows.parquet.gz").write_text("")
    with pytest.raises(HybError, match="is no data set that hyb reads"):
        files(tmp_path / "rows.parquet.gz")
    with pytest.raises(HybError, match=r"has no file of \.jsonl, \.json"):
        files(tmp_path)
    with pytest.raises(HybError, match="is not there"):
        files(tmp_path / "nowhere")


def test_the_reader_never_asks_for_more_than_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD}\n" * 5_000)
    tracemalloc.start()
    count = sum(1 for _ in rows(Named("a", path), Mistakes()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 300_000
    assert chat_files.MAX_LINE == 16 << 20


ROWS = [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]


@pytest.mark.parametrize(
    "value",
    [
        {"version": "1.0", "data": ROWS},
        {"train": ROWS},
        {"question": ["q1", "q2"], "answer": ["a1", "a2"]},
        {"question": {"0": "q1", "7": "q2"}, "answer": {"0": "a1", "7": "a2"}},  # pandas
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_may_be_one_object_that_holds_the_rows(
    tmp_path: Path, value: dict[str, Any], indent: int | None
) -> None:
    found = read(tmp_path / "a.json", "\ufeff\n" + json.dumps(value, indent=indent))
    assert found == ([(1, "a1"), (2, "a2")], [])


@pytest.mark.parametrize(
    "value",
    [
        ROWS[0],
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a1"}]},
        {"prompt": "q", "completions": ["a1"], "labels": [True]},
    ],
)
def test_a_json_file_may_be_one_row_on_many_lines(tmp_path: Path, value: dict[str, Any]) -> None:
    assert read(tmp_path / "a.json", json.dumps(value, indent=2)) == ([(1, "a1")], [])


def test_one_object_that_cant_be_told_apart_or_is_broken_is_one_mistake(tmp_path: Path) -> None:
    _, mistakes = read(tmp_path / "a.json", json.dumps({"train": ROWS, "test": ROWS}, indent=2))
    assert mistakes == ["a.json:1: has rows under `train` and `test`; give each a file"]
    _, mistakes = read(tmp_path / "a.json", json.dumps(ROWS[0], indent=2).replace(",", ""))
    assert len(mistakes) == 1 and mistakes[0].startswith("a.json:3: is broken JSON")
    _, mistakes = read(tmp_path / "a.json", json.dumps({"data": ROWS * 100}), limit=1024)
    assert mistakes == ["a.json:1: is longer than 1024 bytes (`max_line`)"]


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("a.jsonl", gzip.compress(GOOD.encode(), mtime=0), "is packed (gzip); name it `….gz`"),
        ("a.csv", b"PK\x03\x04 and so on", "is packed (zip); unpack it"),
        ("a.json", b"PAR1\x15\x04", "is Parquet; name it `….parquet`"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is only Git LFS's pointer"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>\n", "is a web page"),
        ("a.jsonl", GOOD.encode("utf-16-le"), "is UTF-16"),
        ("a.csv", "question,answer\nq,a\n".encode("utf-16-be"), "is UTF-16"),
    ],
)
def test_a_file_that_is_something_else_than_its_name_says_is_one_mistake(
    tmp_path: Path, name: str, start: bytes, said: str
) -> None:
    found, mistakes = read(tmp_path / name, start)
    assert found == [] and len(mistakes) == 1 and said in mistakes[0]


def test_what_the_library_datasets_saves_beside_rows_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "train/state.json").write_text("{}")
    (tmp_path / "train/dataset_info.json").write_text('{"features": {"question": {"dtype": "string"}}}')
    (tmp_path / "train/data.jsonl").write_text(GOOD)
    assert [n.name for n in files(tmp_path)] == ["train/data.jsonl"]
    assert [n.name for n in files(tmp_path / "train")] == ["data.jsonl"]


def test_pipes_and_links_that_lead_nowhere_or_around_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, target in (("around", "."), ("self.jsonl", "self.jsonl"), ("nowhere.jsonl", "gone")):
        (tmp_path / name).symlink_to(target)
    assert [n.name for n in files(tmp_path)] == ["a.jsonl"]
    with pytest.raises(HybError, match="a pipe or device"):
        files(tmp_path / "pipe.jsonl")
