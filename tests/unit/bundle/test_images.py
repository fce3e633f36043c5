"""Images for a bundle, by the real skopeo, out of layouts and folders as registries hand them out."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hyb import recipe as recipes
from hyb.artifact import INDEX, MANIFEST
from hyb.bundle import images
from hyb.errors import Exit, HybError
from hyb.progress import silent
from hyb.store import Store
from tests.need import need

CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"


def put(layout: Path, data: bytes | dict[str, Any], kind: str) -> dict[str, Any]:
    """A blob of a layout, and its descriptor."""
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def layout(folder: Path, *machines: str) -> Path:
    """An OCI layout of one image, or of a list of them."""
    layer = bytes(10240)  # an empty tar
    found = []
    for machine in machines:
        diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
        config = {"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}, "config": {}}
        parts = {"config": put(folder, config, CONFIG), "layers": [put(folder, layer, LAYER)]}
        manifest = put(folder, {"schemaVersion": 2, "mediaType": MANIFEST, **parts}, MANIFEST)
        found.append({**manifest, "platform": {"architecture": machine, "os": "linux"}})
    named = (
        found[0]
        if len(found) == 1
        else put(folder, {"schemaVersion": 2, "mediaType": INDEX, "manifests": found}, INDEX)
    )
    named = {**named, "annotations": {"org.opencontainers.image.ref.name": "1"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def bring(source: str, tmp_path: Path, machine: str = "x86_64") -> tuple[Store, images.Image]:
    need("skopeo")
    store = Store(tmp_path / "store")
    return store, images.asked(source, store, machine, offline=True, say=silent)


@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_of_a_list_the_image_for_the_other_side_is_taken_with_its_digest(
    tmp_path: Path, machine: str, wanted: str
) -> None:
    place = layout(tmp_path / "many", "amd64", "arm64")
    store, image = bring(f"oci:{place}:1", tmp_path, machine)
    assert json.loads(store.read(image.artifact.manifest["config"]["digest"]))["architecture"] == wanted
    assert (place / "blobs" / image.artifact.digest.replace(":", "/")).exists()


def test_an_image_for_another_machine_is_refused_and_of_podmans_left_out(tmp_path: Path) -> None:
    place = layout(tmp_path / "one", "arm64")
    with pytest.raises(HybError, match="is for arm64, not for amd64") as caught:
        bring(f"oci:{place}:1", tmp_path)
    assert caught.value.code is Exit.INPUT
    store, image = bring(f"oci:{place}:1", tmp_path, "aarch64")
    found, left = images.present([image.name], store, "x86_64", silent)
    assert not found and "not for amd64" in left[0]
    assert images.present([image.name], store, "aarch64", silent) == ([image], [])


def test_an_image_in_dockers_format_can_be_read_inside(tmp_path: Path) -> None:
    need("skopeo")
    place = layout(tmp_path / "one", "amd64")
    copy = ["skopeo", "copy", "-q", "--insecure-policy"]
    subprocess.run([*copy, "--format", "v2s2", f"oci:{place}:1", f"dir:{tmp_path}/docker"], check=True)
    assert "docker" in (tmp_path / "docker" / "manifest.json").read_text()
    store, image = bring(f"dir:{tmp_path}/docker", tmp_path)
    assert image.artifact.manifest["mediaType"] == MANIFEST
    archive = f"docker-archive:{tmp_path}/out.tar:lab/image:1"
    subprocess.run([*copy, f"oci:{store.root}:{image.name}", archive], check=True)


def test_a_link_wants_all_images_that_a_namespace_without_a_network_runs() -> None:
    wanted = images.wanted(recipes.read(Path(__file__).parents[3] / "recipes" / "quickstart" / "hyb.yaml"))
    assert {n.rpartition("/")[2] for n in wanted} >= {"skupper-router:3.5.1", "controller:2.2.1", "kube-adaptor:2.2.1"}
