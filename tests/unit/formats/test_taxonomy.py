"""qna.yaml by InstructLab's rules: each rule, its line, and what is made of files that break some."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.errors import HybError
from hyb.formats import taxonomy, taxonomy_files

COMMIT = "a" * 40
PAIR = """\
      - question: q{n}{k}
        answer: a{n}{k}
"""
KNOWLEDGE = f"""\
version: 3
created_by: me
domain: birds
document_outline: about birds
document:
  repo: https://example.com/birds.git
  commit: {COMMIT}
  patterns: ["*.md"]
seed_examples:
""" + "".join(
    f"  - context: |\n      c{n}\n    questions_and_answers:\n" + "".join(PAIR.format(n=n, k=k) for k in "xyz")
    for n in range(5)
)
SKILL = """\
version: 3
created_by: me
task_description: be kind
seed_examples:
""" + "".join(f"  - question: q{n}\n    answer: a{n}\n" for n in range(5))
V1 = "task_description: ''\ncreated_by: me\nseed_examples:\n- question: q\n  answer: a\n"


def rules(text: str, path: str = "") -> list[tuple[int, str]]:
    return [(f.line, f.rule) for f in taxonomy.read(text, path)[1]]


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [(KNOWLEDGE, "knowledge", 15), (SKILL, "skill", 5), (SKILL.replace("version: 3", "version: 2"), "skill", 5),
     (V1, "skill", 1), ("version: 1\n" + V1, "skill", 1)],
)  # fmt: skip
def test_a_good_file_has_no_finding(text: str, kind: str, count: int) -> None:
    leaf, findings = taxonomy.read(text)
    assert findings == [] and leaf
    assert (leaf.kind, len(leaf.examples)) == (kind, count)


def test_the_examples_have_their_context_and_line() -> None:
    leaf, _ = taxonomy.read(KNOWLEDGE)
    assert leaf and leaf.examples[3] == taxonomy.Example("q1x", "a1x", "c1", 22)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("version: 3\n", "", (1, "version")),
        ("version: 3", "version: 2", (1, "version")),
        ("version: 3", "version: 4", (1, "version")),
        ("version: 3", "version: three", (1, "version")),
        ("created_by: me\n", "", (1, "missing")),
        ("created_by: me", "created_by: ''", (2, "empty")),
        ("domain: birds", "domain: 5", (3, "type")),
        ("domain: birds", "domian: birds", (3, "unknown-key")),
        ("domain: birds\n", "domain: birds\ntask_description: t\n", (4, "unknown-key")),
        ("document_outline: about birds\n", "", (1, "missing")),
        (f"  commit: {COMMIT}\n", "", (5, "missing")),
        (COMMIT, "main", (7, "commit")),
        ('["*.md"]', "[]", (8, "few")),
        ('["*.md"]', '["*.md", "*.md"]', (8, "twice")),
        ('["*.md"]', '["*.docx"]', (8, "pattern")),
        ('["*.md"]', "all", (8, "type")),
        ("  patterns:", "  extra: 1\n  patterns:", (8, "unknown-key")),
        ("      c0\n", "      c0\n    extra: x\n", (12, "unknown-key")),
        ("      - question: q0x\n        answer: a0x\n", "", (12, "few")),
        ("question: q0y", "question: q0x\n        answer: a0x\n      - question: q0y", (15, "twice")),
        ("        answer: a0x\n", "", (13, "missing")),
        ("answer: a0x", "answer: ' '", (14, "empty")),
        ("question: q0x", "question: 7", (13, "type")),
        ("  - context: |\n      c0\n", "  -\n", (11, "missing")),
        ("domain: birds", "domain: birds ", (3, "trailing-spaces")),
        ("domain: birds", "domain:  birds", (3, "colons")),
        ("domain: birds\n", "domain: birds\n\n\n\n", (6, "empty-lines")),
        ("domain: birds\n", "domain: birds\r\n", (3, "new-lines")),
        ("domain: birds\n", "domain: birds\ndomain: bees\n", (4, "yaml")),
        ("domain: birds", "domain : birds", (3, "colons")),
        *((f"answer: {old}", f"answer: {new}", (line, "type")) for old, new, line in (
            ("a0x", "yes", 14), ("a0y", "No", 16), ("a0z", "off", 18), ("a1x", "2024-01-01", 23), ("a1y", "0x1F", 25),
            ("a1z", "1:30", 27), ("a2x", "=", 32), ("a2y", "<<", 34), ("a2z", "1_000", 36),
        )),
    ],
)  # fmt: skip
def test_each_rule_of_knowledge_is_found_at_its_line(old: str, new: str, found: tuple[int, str]) -> None:
    assert old in KNOWLEDGE
    text = KNOWLEDGE.replace(old, new, 1)
    assert found in rules(text), rules(text)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("task_description: be kind\n", "", (1, "missing")),
        ("task_description: be kind", "task_description: ''", (3, "empty")),
        ("  - question: q0\n    answer: a0\n", "", (4, "few")),
        ("question: q0", "question: q0\n    extra: 1", (6, "unknown-key")),
        ("answer: a0\n", "answer: a0\n    context: ''\n", (7, "empty")),
        ("  - question: q0\n    answer: a0", "  - question: q1\n    answer: a1", (7, "twice")),
        ("seed_examples:", "seeds:", (1, "missing")),
        ("- question: q0\n    answer", "-   question: q0\n      answer", (5, "hyphens")),
    ],
)
def test_each_rule_of_skills_is_found_at_its_line(old: str, new: str, found: tuple[int, str]) -> None:
    assert old in SKILL
    text = SKILL.replace(old, new, 1)
    assert found in rules(text), rules(text)


@pytest.mark.parametrize("answer", ["'yes'", '"2024-01-01"', "yes it is", "noon", "|\n      yes", "a:b", "012-3"])
def test_what_is_a_text_to_every_reader_of_yaml_is_no_finding(answer: str) -> None:
    assert rules(SKILL.replace("answer: a0", f"answer: {answer}")) == []


def test_a_second_document_that_is_broken_ends_the_reading_and_nothing_more() -> None:
    assert "yaml" in [rule for _, rule in rules(SKILL + "---\na: b: c\n")]


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: &x 1\nb: *x", "seed_examples: 3", "seed_examples: []"])
def test_a_file_that_holds_nothing_to_use_is_fatal(text: str) -> None:
    leaf, findings = taxonomy.read(text)
    assert leaf is None and any(f.fatal for f in findings)


def test_a_local_path_takes_the_place_of_a_repository() -> None:
    text = KNOWLEDGE.replace("  repo: https://example.com/birds.git\n", "").replace(
        f"  commit: {COMMIT}", "  path: docs/"
    )
    leaf, findings = taxonomy.read(text)
    assert findings == [] and leaf and leaf.source == taxonomy.Source(path="docs/", patterns=("*.md",))


def test_the_folder_tells_the_kind() -> None:
    assert (1, "missing") in rules(SKILL, "knowledge/birds/qna.yaml")
    assert rules(SKILL, "compositional_skills/kind/qna.yaml") == []


def test_an_attribution_is_read_by_its_fields() -> None:
    text = "Title of work: Birds\nLink to work: https://example.com\nLicense of the work: CC-BY-4.0\n"
    text += "Creator names: A\nCreator names: B\n"
    assert taxonomy.attribution(text) == {
        "title": "Birds", "link": "https://example.com", "license": "CC-BY-4.0", "creators": "A; B",
    }  # fmt: skip


def test_a_folder_is_searched_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    for name, text in (
        ("knowledge/a/qna.yaml", KNOWLEDGE),
        ("compositional_skills/b/qna.yml", SKILL),
        (".git/qna.yaml", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    found = taxonomy_files.lint(tmp_path)
    assert [r.file.name for r in found] == ["compositional_skills/b/qna.yml", "knowledge/a/qna.yaml"]
    assert found[0].said() == [
        "compositional_skills/b/qna.yml:1: `qna.yml` must be called `qna.yaml`: InstructLab passes it over"
    ]
    assert found[1].said() == []
    with pytest.raises(HybError, match=r"has no `qna\.yaml`"):
        taxonomy_files.lint(tmp_path / "nowhere")


def test_a_skills_context_is_asked_with_and_a_knowledges_is_not(tmp_path: Path) -> None:
    grounded = SKILL.replace("    answer: a0\n", "    answer: a0\n    context: c0\n")
    for name, text in (("knowledge/a", KNOWLEDGE), ("compositional_skills/b", grounded)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "qna.yaml").write_text(text)
    asked = [
        next(iter(taxonomy_files.rows(taxonomy_files.read(f)))).row.question[0]["content"]
        for f in taxonomy_files.files(tmp_path)
    ]
    assert asked == ["c0\n\nq0", "q0x"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/knowledge/compositional_skills/x/qna.yaml", "skill"),
        ("/srv/compositional_skills/taxonomy/knowledge/x/qna.yaml", "knowledge"),
        ("C:\\taxonomy\\foundational_skills\\x\\qna.yaml", "skill"),
        ("/elsewhere/qna.yaml", "knowledge"),
    ],
)
def test_the_last_of_a_taxonomys_folders_tells_the_kind(path: str, kind: str) -> None:
    assert taxonomy.kind_of(path, {"document": {}}) == kind
