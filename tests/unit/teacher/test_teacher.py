"""A teacher over real HTTP on loopback: good, slow, full, broken, and speaking of something else."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import Exit, HybError
from hyb.serving import client as asking_client
from hyb.serving.client import Address
from hyb.stages import data
from hyb.stages.base import Context
from hyb.store import Store
from hyb.teacher import ask as asking
from hyb.teacher import prompts, sources
from tests.teaching import Teacher, chat

pytestmark = pytest.mark.socket

TEXT = (
    "# Nimbrel\n\nThe Nimbrel company was founded in 2009 by Tamsin Okereke in Lisbon. "
    "Its mascot is an otter called Quillow.\n"
)


def good(body: dict[str, Any], _: int) -> tuple[int, bytes]:
    prompt = body["messages"][0]["content"]
    if "yes or no" in prompt:
        return chat("No." if "2009" in prompt.split("Question:")[1] else "Yes.")
    pairs = [
        {"question": "Who founded Nimbrel?", "answer": "Tamsin Okereke founded Nimbrel."},
        {"question": "When was Nimbrel founded?", "answer": "Nimbrel was founded in 2009."},
        {"question": "When was Nimbrel founded?", "answer": "In 2009."},
        {"question": "What is the mascot of Nimbrel?", "answer": "A dragon of gold and silver."},
    ]
    return chat("\n".join(map(json.dumps, pairs)))


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teacher]:
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    made = Teacher(good)
    yield made
    made.close()


class Made:
    """What the stage gave for a folder with one text."""

    def __init__(self, tmp_path: Path, teacher: Teacher, **generate: Any) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / "a.md").write_text(TEXT)
        (tmp_path / "work").mkdir(exist_ok=True)
        self.said: list[Any] = []
        store = Store(tmp_path / "store")
        spec = data.Spec(source="in", generate={"teacher": teacher.url, **generate})
        artifact = data.run(spec, {}, Context(store, tmp_path / "work", tmp_path, say=self.said.append))
        view = store.view(artifact)
        self.rows = [json.loads(x) for x in (view / "train.jsonl").read_text().splitlines()]
        self.report = json.loads((view / "stats.json").read_text())["generated"]

    @property
    def questions(self) -> list[str]:
        return [r["messages"][0]["content"] for r in self.rows]


def test_what_the_text_bears_out_is_kept_and_the_rest_counted_by_reason(tmp_path: Path, teacher: Teacher) -> None:
    made = Made(tmp_path, teacher, count=4)
    assert made.questions == ["Who founded Nimbrel?", "When was Nimbrel founded?"]
    assert made.rows[0]["meta"] == {"source": "a.md", "line": 3}
    assert made.report["dropped"] == {"asked already": 1, "is not in the text": 1}
    assert made.report["examples"]["is not in the text"][0]["answer"] == "A dragon of gold and silver."
    assert (made.report["model"], made.report["prompts"]) == ("big", prompts.read(None).digest)
    assert "4 different questions" in teacher.asked[0]["messages"][0]["content"]


def test_what_was_answered_is_not_asked_again(tmp_path: Path, teacher: Teacher) -> None:
    first = Made(tmp_path, teacher)
    second = Made(tmp_path, teacher, grounded=0.1)
    assert len(teacher.asked) == 1 and len(second.rows) >= len(first.rows)
    Made(tmp_path, teacher, count=7)
    assert len(teacher.asked) == 2


def test_the_teacher_may_be_asked_to_stand_by_its_answers(tmp_path: Path, teacher: Teacher) -> None:
    made = Made(tmp_path, teacher, verify=True)
    assert made.questions == ["Who founded Nimbrel?"]
    assert made.report["dropped"]["the teacher does not stand by it"] == 1


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_teacher_that_is_full_for_a_moment_is_asked_again(tmp_path: Path, teacher: Teacher, status: int) -> None:
    teacher.reply = lambda body, n: good(body, n) if n > 1 else (status, b'{"error": {"message": "later"}}')
    assert len(Made(tmp_path, teacher).rows) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (chat('{"question": "Who founded Nimb'), "teacher: no question and answer in what it wrote"),
        (chat("I'd rather talk about cats."), "teacher: no question and answer in what it wrote"),
        (chat('{"question": "Who is a cat?", "answer": "Cats purr."}'), "is not in the text"),
        (chat('{"question": "...", "answer": "..."}'), "is the form, not filled in"),
    ],
)
def test_a_teacher_that_answers_badly_gives_no_row_and_the_reason(
    tmp_path: Path, teacher: Teacher, reply: tuple[int, bytes], reason: str
) -> None:
    teacher.reply = lambda body, n: reply
    with pytest.raises(HybError, match="has no rows") as caught:
        Made(tmp_path, teacher)
    assert any(reason in d for d in caught.value.details), caught.value.details


@pytest.mark.parametrize(
    ("reply", "said", "tries"),
    [
        ((200, b"<html>Sign in to the network</html>"), "something that is no JSON", 3),
        ((200, b'{"choices": [{"mess'), "something that is no JSON", 3),
        ((200, b'{"choices": []}'), "no chat completion", 3),
        ((302, b""), "an empty page (status 302)", 3),  # is not followed: the key is this server's alone
        ((401, b'{"error": {"message": "wrong key"}}'), "said 401: wrong key", 1),
        ((404, b'{"error": {"message": "no model `nope`"}}'), "said 404: no model `nope`", 1),
    ],
)
def test_a_teacher_that_gives_nothing_to_any_request_ends_the_run_with_its_words(
    tmp_path: Path, teacher: Teacher, reply: tuple[int, bytes], said: str, tries: int
) -> None:
    teacher.reply = lambda body, n: reply
    with pytest.raises(HybError, match="does not answer") as caught:
        Made(tmp_path, teacher)
    assert caught.value.code is Exit.BELOW and said in caught.value.message
    assert len(teacher.asked) == tries


def test_a_teacher_that_says_too_much_is_not_heard_to_the_end(
    tmp_path: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_client, "MOST", 1 << 20)
    teacher.reply = lambda body, n: chat("fine " * (1 << 18))
    with pytest.raises(HybError, match="says more than 1 MiB at once"):
        asking.ask(Address(teacher.url), [asking.Request("p", {})], tmp_path, parallel=1, timeout=5)


def test_a_teacher_that_falls_silent_ends_the_run_and_what_it_said_is_kept(tmp_path: Path, teacher: Teacher) -> None:
    def dying(body: dict[str, Any], n: int) -> tuple[int, bytes]:
        return chat("fine") if n <= 10 else (500, b"{}")

    teacher.reply = dying
    asked = [asking.Request(f"p{n}", {}) for n in range(40)]
    with pytest.raises(HybError, match="does not answer") as caught:
        asking.ask(Address(teacher.url), asked, tmp_path, parallel=2, timeout=5)
    assert caught.value.code is Exit.BELOW and "what it answered is kept" in caught.value.hint
    teacher.reply = lambda body, n: chat("back")
    found = asking.ask(Address(teacher.url), asked, tmp_path, parallel=2, timeout=5)
    assert [a.text for a in found].count("fine") == 10 and all(not a.error for a in found)


def test_one_request_that_the_teacher_refuses_costs_that_one_alone(tmp_path: Path, teacher: Teacher) -> None:
    def choosy(body: dict[str, Any], _: int) -> tuple[int, bytes]:
        return (400, b'{"error": "too long"}') if "p3" in body["messages"][0]["content"] else chat("fine")

    teacher.reply = choosy
    asked = [asking.Request(f"p{n}", {}) for n in range(6)]
    for _ in range(2):  # nor a second time, when it is all that is left
        found = asking.ask(Address(teacher.url), asked, tmp_path, parallel=2, timeout=5)
        assert [bool(a.error) for a in found] == [n == 3 for n in range(6)]
    assert len(teacher.asked) == 7


def test_a_full_teacher_is_asked_again_when_it_says(tmp_path: Path, teacher: Teacher) -> None:
    later = {"Retry-After": "0.05"}
    teacher.reply = lambda body, n: chat("fine") if n > 5 else (429, b"{}", later)
    (answer,) = asking.ask(Address(teacher.url), [asking.Request("p", {})], tmp_path, parallel=1, timeout=5)
    assert answer.text == "fine" and len(teacher.asked) == 6
    teacher.reply = lambda body, n: (429, b'{"error": "full"}', {"Retry-After": "3600"})
    began = time.monotonic()
    with pytest.raises(HybError, match="said 429: full"):
        asking.ask(Address(teacher.url), [asking.Request("q", {})], tmp_path, parallel=1, timeout=5)
    assert len(teacher.asked) == 7 and time.monotonic() - began < 60


@pytest.mark.parametrize("said", ["", "soon", "-1", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_to_wait_that_makes_no_sense_is_none(said: str) -> None:
    headers = Message()
    headers["Retry-After"] = said
    assert asking._told_to_wait(headers) == 0
    headers.replace_header("Retry-After", "7")
    assert asking._told_to_wait(headers) == 7


def test_a_slow_teacher_is_given_up_after_its_time(tmp_path: Path, teacher: Teacher) -> None:
    ended = threading.Event()

    def slow(body: dict[str, Any], _: int) -> tuple[int, bytes]:
        ended.wait(20)
        return chat("")

    teacher.reply = slow
    try:
        with pytest.raises(HybError, match="no answer in time"):
            asking.ask(Address(teacher.url), [asking.Request("p", {})], tmp_path, parallel=1, timeout=0.1)
    finally:
        ended.set()


def test_an_answer_that_trickles_without_end_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def trickle() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                        while not ended.wait(0.05):
                            connection.sendall(b" ")

        server.settimeout(0.2)
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        address = Address(f"http://127.0.0.1:{server.getsockname()[1]}/v1")
        try:
            with pytest.raises(HybError, match="no answer in time"):
                asking.ask(address, [asking.Request("p", {})], tmp_path, parallel=1, timeout=0.2)
        finally:
            ended.set()
            thread.join()


def test_half_a_character_from_a_teacher_spoils_nothing(tmp_path: Path, teacher: Teacher) -> None:
    pairs = '{"question": "Who founded Nimbrel?", "answer": "Tamsin Okereke \\ud83d founded Nimbrel."}'
    teacher.reply = lambda body, n: chat(pairs + "\ud800")
    assert Made(tmp_path, teacher).questions == ["Who founded Nimbrel?"]


def test_an_answer_that_cant_be_kept_ends_the_run(tmp_path: Path, teacher: Teacher) -> None:
    request = asking.Request("p", {})
    (tmp_path / asking._name(request)).mkdir()
    with pytest.raises(HybError, match="can't keep the teacher's answer"):
        asking.ask(Address(teacher.url), [request], tmp_path, parallel=1, timeout=5)


def test_half_a_cached_answer_is_asked_again(tmp_path: Path, teacher: Teacher) -> None:
    request = asking.Request("p", {})
    asking.ask(Address(teacher.url), [request], tmp_path, parallel=1, timeout=5)
    (kept,) = tmp_path.iterdir()
    kept.write_text('{"te')
    asking.ask(Address(teacher.url), [request], tmp_path, parallel=1, timeout=5)
    assert len(teacher.asked) == 2 and json.loads(kept.read_text())["text"]


def test_a_teacher_elsewhere_is_not_asked_offline(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TEXT)
    spec = data.Spec(source="a.md", generate={"teacher": "http://teacher.example.com/v1"})
    with pytest.raises(HybError) as caught:
        data.run(spec, {}, Context(Store(tmp_path / "store"), tmp_path, tmp_path, offline=True))
    assert caught.value.code is Exit.OFFLINE


def test_own_prompts_take_the_place_of_hybs_and_a_wrong_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "knowledge.txt").write_text("Ask of {passage}: {{}}")
    found = prompts.read(tmp_path)
    assert found.fill("knowledge", passage="{x}") == "Ask of {x}: {}"
    assert found.texts["skill"] == prompts.read(None).texts["skill"] and found.digest != prompts.read(None).digest
    (tmp_path / "knowledge.txt").write_text("{pasage} {0}")
    with pytest.raises(HybError) as caught:
        prompts.read(tmp_path)
    assert len(caught.value.details) == 2
    with pytest.raises(HybError, match="can't be used"):
        prompts.read(tmp_path / "nowhere")


KNOWLEDGE = """\
version: 3
created_by: me
domain: d
document_outline: o
document:
  {document}
  patterns: ["*.md"]
seed_examples:
  - context: c
    questions_and_answers:
      - question: Example question?
        answer: Example answer.
"""


def test_a_knowledges_documents_lie_near_it_and_its_examples_are_shown(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(TEXT)
    (tmp_path / "docs" / "b.txt").write_text(TEXT)
    (tmp_path / "qna.yaml").write_text(KNOWLEDGE.format(document="path: docs"))
    (topic,) = sources.read(tmp_path, tmp_path / "cache", offline=True)
    assert (topic.source, topic.line, topic.examples[0].question) == ("a.md", 3, "Example question?")


def test_a_knowledges_documents_come_from_git_once_and_never_offline(tmp_path: Path) -> None:
    from hyb import engine

    repo, cache = tmp_path / "repo", tmp_path / "cache"
    (repo / "sub").mkdir(parents=True)
    (repo / "sub" / "a.md").write_text(TEXT)
    quiet = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], [*quiet, "commit", "-qm", "x"]):
        engine.run(["git", "-C", str(repo), *command])
    commit = engine.run(["git", "-C", str(repo), "rev-parse", "HEAD"]).stdout.decode().strip()
    (tmp_path / "qna.yaml").write_text(KNOWLEDGE.format(document=f"repo: file://{repo}\n  commit: {commit}"))
    with pytest.raises(HybError) as caught:
        sources.read(tmp_path / "qna.yaml", cache, offline=True)
    assert caught.value.code is Exit.OFFLINE
    (topic,) = sources.read(tmp_path / "qna.yaml", cache, offline=False)
    assert topic.source == "sub/a.md"
    assert sources.read(tmp_path / "qna.yaml", cache, offline=True) == [topic]


@pytest.mark.parametrize("commit", ["main", "v1.0", "0a1f267", "../../../elsewhere", "-x", ""])
def test_a_commit_that_is_no_full_id_is_refused(tmp_path: Path, commit: str) -> None:
    with pytest.raises(HybError, match="no full commit id"):
        sources.fetch("file:///nowhere", commit, tmp_path / "cache", offline=False)
    assert not list(tmp_path.iterdir())


def test_a_fetch_that_was_killed_is_made_again(tmp_path: Path) -> None:
    from hyb import engine

    repo, cache = tmp_path / "repo", tmp_path / "cache"
    repo.mkdir()
    (repo / "a.md").write_text(TEXT)
    quiet = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], [*quiet, "commit", "-qm", "x"]):
        engine.run(["git", "-C", str(repo), *command])
    commit = engine.run(["git", "-C", str(repo), "rev-parse", "HEAD"]).stdout.decode().strip()
    (cache / "git" / commit / ".git").mkdir(parents=True)
    (cache / "git" / commit / ".git" / "index.lock").touch()
    assert (sources.fetch(f"file://{repo}", commit, cache, offline=False) / "a.md").read_text() == TEXT


def test_patterns_are_read_from_the_folder_on(tmp_path: Path) -> None:
    (tmp_path / "docs" / "old").mkdir(parents=True)
    for name in ("README.md", "old/README.md", "old/b.md"):
        (tmp_path / "docs" / name).write_text(TEXT)
    for patterns, wanted in (
        ('["README.md"]', ["README.md"]),
        ('["**/README.md"]', ["README.md", "old/README.md"]),
        ('["b.md"]', ["old/b.md"]),
    ):
        text = KNOWLEDGE.replace('["*.md"]', patterns).format(document="path: docs")
        (tmp_path / "qna.yaml").write_text(text)
        assert [t.source for t in sources.read(tmp_path, tmp_path / "cache", offline=True)] == wanted
    (tmp_path / "qna.yaml").write_text(KNOWLEDGE.replace('["*.md"]', '["/etc/*.md"]').format(document="path: docs"))
    with pytest.raises(HybError, match=r"`document.patterns`"):
        sources.read(tmp_path, tmp_path / "cache", offline=True)


@pytest.mark.parametrize("repo", ["--upload-pack=touch /tmp/x", "ext::sh -c true"])
def test_a_repository_that_is_a_command_is_refused(tmp_path: Path, repo: str) -> None:
    with pytest.raises(HybError, match="is no repository"):
        sources.fetch(repo, "a" * 40, tmp_path, offline=False)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text(TEXT)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(HybError, match="no passage"):
        sources.read(tmp_path / "in", tmp_path / "cache", offline=True)


def test_a_pdf_that_is_none_is_an_error_in_words(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(HybError, match="can't be read as PDF"):
        sources.read(tmp_path, tmp_path / "cache", offline=True)
