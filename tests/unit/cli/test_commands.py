"""hyb.cli.commands: how a command ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("arguments", "code"), [(["ls", "--store", "nowhere/at/all"], 0), (["show", "nothing"], 3)])
def test_a_reader_who_has_gone_is_told_nothing_and_the_code_stays(arguments: list[str], code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hyb", *arguments, "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_result_that_can_not_be_written_is_an_error_in_words(more: list[str]) -> None:
    command = [sys.executable, "-m", "hyb", "ls", "--store", "nowhere/at/all", *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "can't write the result to standard output: no space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_closed_is_nowhere(closed: str) -> None:
    command = ["sh", "-c", f'"$0" -m hyb ls --store nowhere/at/all {closed}', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
