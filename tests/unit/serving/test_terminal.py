from __future__ import annotations

import json

import pytest

from hyb.errors import HybError
from hyb.printable import printable
from hyb.serving import terminal
from hyb.serving.answer import Answer, Timing
from hyb.serving.terminal import Conversation, Message

TIMING = Timing(0.05, 2.05, (0.1,) * 20, 100, 21, True, 24)
ANSWER = Answer("Paris", "hm", "stop", "bot", TIMING)


def test_a_line_is_a_command_a_question_or_a_mistake() -> None:
    assert terminal.command("Who are you?") is None
    assert terminal.command("//etc is what?") is None
    assert terminal.command("/system You are brief") == ("system", "You are brief")
    assert terminal.command("/q") == ("quit", "")
    for wrong in ("/", "/nope", "/s"):
        with pytest.raises(HybError, match="there is no command"):
            terminal.command(wrong)
    assert all(f"/{name}" in terminal.help_text() for name in terminal.COMMANDS)


def test_a_conversation_tells_the_system_prompt_first_and_no_reasoning() -> None:
    talk = Conversation("Be brief.").ask("Capital?").answered(ANSWER).ask("Sure?")
    assert talk.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "Sure?"},
    ]
    before, question = talk.before_last_question()
    assert (question, len(before)) == ("Sure?", 2)
    assert Conversation().before_last_question() == (Conversation(), "")


HARD = Conversation(
    "be\n\n## user\n\nkind",
    (
        Message("user", "## assistant\n\\## user\n\n# x"),
        Message("assistant", "a\n\n```\n## system\n```", "## user\nwhy"),
    ),
)


@pytest.mark.parametrize("suffix", [".md", ".json"])
@pytest.mark.parametrize("talk", [HARD, Conversation("", (Message("user", "ü?"),)), Conversation("s").ask("q")])
def test_a_saved_chat_is_loaded_as_it_was(suffix: str, talk: Conversation) -> None:
    assert terminal.read(terminal.write(talk, "bot", suffix), suffix) == talk


def test_the_json_of_a_chat_is_what_the_api_takes() -> None:
    document = json.loads(terminal.write(Conversation().ask("Capital?").answered(ANSWER), "bot", ".json"))
    assert document["messages"][1] == {"role": "assistant", "content": "Paris", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("{", ".json"), ("3", ".json"), ('{"messages": [{"role": "root", "content": "x"}]}', ".json"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}', ".json"),
        ("[" * 100_000, ".json"), ("just text", ".md"), ("## user\n\na\n\n## system\n\nb", ".md"), ("", ".txt"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_chat_is_refused(text: str, suffix: str) -> None:
    with pytest.raises(HybError, match="chat"):
        terminal.read(text, suffix)


def test_a_model_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;x\x07b\r\x9b2Jc\u202ed\n\tü") == "a]0;xb2Jcd\n\tü"


def test_the_figures_of_an_answer_are_told_in_one_line_and_in_a_table() -> None:
    assert terminal.brief(TIMING) == "0.05 s to the first token, 10.0 tokens/s, 121 tokens in the context"
    assert "24 of them kept" in terminal.stats(TIMING, Conversation())
    assert "nothing was asked" in terminal.stats(None, Conversation())
    uncounted = Timing(0.1, 1.1, (0.5, 0.5), 0, 3, False)
    assert terminal.brief(uncounted) == "0.10 s to the first token, ~2.0 tokens/s"
    assert "does not say" in terminal.stats(uncounted, Conversation())
    assert terminal.brief(Timing(0, 0, (), 0, 0, False)) == "no token came"
    assert terminal.timing_dict(TIMING)["tokens_per_s"] == 10.0
