from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hyb.workers import protocol


@pytest.mark.parametrize(
    ("rank", "alone", "told"), [("0", False, True), ("1", False, False), ("0", True, True), ("1", True, True)]
)
def test_of_several_processes_the_first_tells_what_all_found_and_each_what_it_alone_found(
    rank: str, alone: bool, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out = tmp_path / "job.json", io.StringIO()
    job.write_text("{}")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["worker", str(job)])
    monkeypatch.setattr(protocol, "_OUT", out)

    def work(_job: dict[str, Any]) -> dict[str, Any]:
        raise protocol.Failed("no room", hint="make some", alone=alone)

    with pytest.raises(SystemExit) as end:
        protocol.main(work)
    assert end.value.code == 3
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert said == [{"event": "fail", "message": "no room", "hint": "make some", "code": 3, "details": []}] * told
