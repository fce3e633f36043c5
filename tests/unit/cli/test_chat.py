"""What of an answer is shown where."""

from __future__ import annotations

import io

from hyb.cli.chat import ERASE, Screen
from hyb.serving.answer import TEXT, THOUGHT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PIECES = [(THOUGHT, "\nwell"), (THOUGHT, ", so"), (TEXT, "\n\nPa"), (TEXT, "ris\x1b[2J")]


def shown(screen: Screen) -> None:
    for kind, text in PIECES:
        screen.piece(kind, text)
    screen.end()


def test_on_a_terminal_the_reasoning_is_dim_and_the_answer_is_not_and_drives_nothing() -> None:
    out = Terminal()
    shown(Screen(out, thoughts=out, dim=True))
    assert out.getvalue() == "\x1b[2mwell, so\x1b[0m\n\nParis[2J\x1b[0m\n"


def test_a_hidden_reasoning_leaves_a_sign_of_life_that_goes_when_the_answer_comes() -> None:
    out = Terminal()
    shown(Screen(out, dim=True))
    assert out.getvalue() == f"\x1b[2mthinking…\x1b[0m{ERASE}\x1b[0mParis[2J\x1b[0m\n"
    endless = Terminal()
    screen = Screen(endless, dim=True)
    screen.piece(THOUGHT, "well")
    screen.end()
    assert endless.getvalue().endswith(ERASE)


def test_in_one_shot_the_answer_alone_is_on_stdout_as_it_came() -> None:
    out, err = io.StringIO(), io.StringIO()
    shown(Screen(out, thoughts=err))
    assert (out.getvalue(), err.getvalue()) == ("Paris\x1b[2J\n", "well, so\n")
    quiet = io.StringIO()
    shown(Screen(quiet))
    assert quiet.getvalue() == "Paris\x1b[2J\n"


def test_nothing_is_shown_where_nothing_is_wanted() -> None:
    shown(Screen(None))
