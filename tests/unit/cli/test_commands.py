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
