"""`hyb tune`: an option for each field of its stage."""

from __future__ import annotations

import pytest

from hyb.cli import tune_options
from hyb.cli.commands import build
from hyb.errors import HybError
from hyb.stages.tune import Spec, Speed

CALLED = {"gradient_checkpointing": "checkpointing"}


def test_every_field_of_the_stage_has_an_option() -> None:
    options = {p.name for p in build("tune").params}
    fields = {CALLED.get(f, f) for f in Spec.model_fields} - {"stage"}
    assert fields <= options


def test_switches_are_read_as_on_off_or_auto_and_the_spec_takes_them() -> None:
    found = tune_options.switches(["share=off", "resident=auto", "compile=on"])
    assert found == {"share": False, "resident": "auto", "compile": True}
    assert Speed.model_validate(found) == Speed(share=False, compile=True)
    assert tune_options.switches(None) is None


@pytest.mark.parametrize("text", ["share", "share=no", "=on", ""])
def test_what_is_no_switch_is_a_usage_error(text: str) -> None:
    with pytest.raises(HybError, match="is no switch") as caught:
        tune_options.switches([text])
    assert caught.value.code == 2


def test_a_size_of_a_pack_is_taken_as_it_is_typed() -> None:
    assert Spec.model_validate({"model": "m", "data": "d", "pack": "4096"}).pack == 4096
    assert Spec.model_validate({"model": "m", "data": "d", "pack": "off"}).pack == "off"
