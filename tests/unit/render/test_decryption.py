"""What a cluster needs to open sealed images: CRI-O's drop-in and the MachineConfig that carries it."""

from __future__ import annotations

import base64
import tomllib

import yaml

from hyb.render import decryption
from hyb.render.unit import ServiceUnit, for_podman

DIGEST = "a" * 64
UNIT = ServiceUnit("bot", "localhost/serve:1", f"registry.example/lab/bot@sha256:{DIGEST}", "sha256:" + "b" * 64)
TO = ("sha256:" + "c" * 64,)


def test_the_drop_in_is_toml_and_names_a_folder_of_keys() -> None:
    assert tomllib.loads(decryption.crio()) == {"crio": {"runtime": {"decryption_keys_path": "/etc/crio/keys/"}}}


def test_the_machine_config_carries_the_very_drop_in_and_no_key() -> None:
    document = yaml.safe_load(decryption.machine_config("bot"))
    assert document["metadata"]["labels"] == {"machineconfiguration.openshift.io/role": "worker"}
    (file,) = document["spec"]["config"]["storage"]["files"]
    assert (file["path"], file["mode"]) == ("/etc/crio/crio.conf.d/01-decrypt.conf", 0o644)
    assert base64.b64decode(file["contents"]["source"].partition(",")[2]).decode() == decryption.crio()
    assert list(document["spec"]["config"]["storage"]) == ["files"], "the operator takes no folders"
    assert document["spec"]["config"]["ignition"] == {"version": "3.2.0"}


def test_podman_s_documents_name_the_opened_image_by_what_it_was_sealed_as() -> None:
    assert for_podman(UNIT) == UNIT
    closed = ServiceUnit(**{**vars(UNIT), "sealed_to": TO})
    assert for_podman(closed).model_image == f"registry.example/lab/bot:opened-{DIGEST[:12]}"
    one = ServiceUnit(**{**vars(closed), "model_image": "", "runtime_image": f"localhost:5000/bot@sha256:{DIGEST}"})
    assert for_podman(one).runtime_image == f"localhost:5000/bot:opened-{DIGEST[:12]}"


def test_both_guides_name_the_recipients_and_the_command_has_no_key_in_it() -> None:
    closed = ServiceUnit(**{**vars(UNIT), "sealed_to": TO})
    podman = decryption.podman_guide(closed, for_podman(closed))
    for text in (podman, decryption.node_guide("bot", TO)):
        assert TO[0][:23] in text
        assert "KEY" in text
    assert f"containers-storage:registry.example/lab/bot:opened-{DIGEST[:12]}" in podman
    assert f"docker://REGISTRY/bot@sha256:{DIGEST}" in podman
