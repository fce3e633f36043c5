"""OCI image documents."""

from __future__ import annotations

import pytest

from hyb.artifact import Blob
from hyb.errors import HybError
from hyb.formats import oci

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
WEIGHTS = oci.Layer(Blob(ONE, 10), ONE, "/models/model.gguf")


def test_a_config_from_scratch_names_its_layers_and_no_time_of_making() -> None:
    config = oci.image_config([WEIGHTS], architecture="arm64", labels={"io.hyb.model": TWO})
    assert config == {
        "architecture": "arm64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Labels": {"io.hyb.model": TWO}},
        "rootfs": {"type": "layers", "diff_ids": [ONE]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "hyb pack: /models/model.gguf"}],
    }


def test_a_config_on_a_base_keeps_how_the_base_runs() -> None:
    below = oci.Layer(Blob(TWO, 5), "sha256:" + "3" * 64, "base", oci.LAYER + "+gzip")
    runs = {"User": "1001", "Entrypoint": ["serve"], "Env": ["PATH=/bin"], "Labels": {"vendor": "lab", "a": "old"}}
    base = oci.Base({"config": runs, "history": [{"created_by": "the base"}]}, (below,), TWO)
    config = oci.image_config([below, WEIGHTS], architecture="amd64", labels={"a": "new"}, base=base)
    assert config["config"] == {**runs, "Labels": {"vendor": "lab", "a": "new"}}
    assert config["rootfs"]["diff_ids"] == ["sha256:" + "3" * 64, ONE]
    assert [h["created_by"] for h in config["history"]] == ["the base", "hyb pack: /models/model.gguf"]


def test_a_manifest_names_each_layer_by_its_own_media_type() -> None:
    zipped = oci.Layer(Blob(TWO, 5), ONE, "base", oci.LAYER + "+gzip")
    manifest = oci.image_manifest(Blob(ONE, 3), [zipped, WEIGHTS], {"k": "v"})
    assert [layer["mediaType"] for layer in manifest["layers"]] == [oci.LAYER + "+gzip", oci.LAYER]
    assert manifest["config"] == {"mediaType": oci.CONFIG, "digest": ONE, "size": 3}
    assert manifest["annotations"] == {"k": "v"}


def test_a_base_whose_documents_disagree_is_refused() -> None:
    with pytest.raises(HybError, match="names 2 layers, its manifest 1"):
        oci.base_layers({"layers": [{"digest": ONE, "size": 1}]}, {"rootfs": {"diff_ids": [ONE, TWO]}})


def entry(digest: str, architecture: str | None = None) -> dict[str, object]:
    return {"digest": digest, **({"platform": {"architecture": architecture}} if architecture else {})}


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([entry(ONE)], ONE),
        ([entry(ONE), entry(ONE)], ONE),
        ([entry(ONE, "amd64"), entry(TWO, "arm64")], ONE),
        ([entry(ONE, "amd64"), entry(TWO, "unknown")], ONE),
        ([entry(TWO, "arm64")], None),
        ([entry(ONE), entry(TWO)], None),
        ([], None),
    ],
)
def test_the_one_image_for_an_architecture_is_chosen_or_none(entries: list[object], chosen: str | None) -> None:
    found = oci.choose({"manifests": entries}, "amd64")
    assert (found and found["digest"]) == chosen
