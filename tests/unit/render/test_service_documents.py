"""Quadlet and Kubernetes documents of a service: golden, valid, locked down, and without a secret."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render import kubernetes, quadlet
from hyb.render.unit import ServiceUnit, label_mistake, pinned, reference_mistake
from tests.need import need

DATA = Path(__file__).parents[2] / "data" / "serve"
GENERATORS = ("/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet")
MODEL, IMAGE = "sha256:" + "b" * 64, "sha256:" + "a" * 64
UNIT = ServiceUnit(
    name="bot",
    runtime_image="localhost/hyb-serve-cpu:latest",
    model_image=f"localhost/lab/bot@{IMAGE}",
    model_digest=MODEL,
    memory=2 << 30,
)
VARIANTS = {
    "bot": UNIT,
    "own-runtime": replace(UNIT, name="own-runtime", runtime_image=f"localhost/lab/bot@{IMAGE}", model_image=""),
    "artifact": replace(
        UNIT, name="artifact", artifact=True, model_image=f"registry.example.com/lab/bot@{IMAGE}", host="::1",
        port=8080, replicas=2, runtime_class="kata", startup=601,
    ),
}  # fmt: skip


def golden(path: Path, text: str) -> None:
    """Compare with a golden file; `HYB_GOLDEN=write` writes it anew."""
    if os.environ.get("HYB_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_quadlet_unit_is_the_golden_one(name: str) -> None:
    golden(DATA / f"{name}.container", quadlet.container(VARIANTS[name]))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_kubernetes_documents_are_the_golden_ones(name: str) -> None:
    golden(DATA / f"{name}.yaml", kubernetes.dump(VARIANTS[name]))


KEYS_OF_PODMAN_4_4 = set(
    """AddCapability AddDevice Annotation ContainerName DropCapability Environment EnvironmentFile EnvironmentHost Exec
    ExposeHostPort Group Image Label Network NoNewPrivileges Notify PodmanArgs PublishPort ReadOnly RemapGid RemapUid
    RemapUidSize RemapUsers RunInit SeccompProfile Timezone User VolatileTmp Volume""".split()  # noqa: SIM905
)


@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
def test_the_unit_has_only_keys_that_the_first_quadlet_knew(unit: ServiceUnit) -> None:
    section = quadlet.container(unit).split("[Container]\n")[1].split("\n[Service]")[0]
    assert {line.partition("=")[0] for line in section.strip().splitlines()} <= KEYS_OF_PODMAN_4_4


@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
def test_podmans_own_generator_takes_the_unit(unit: ServiceUnit, tmp_path: Path) -> None:
    generator = os.environ.get("HYB_QUADLET") or next((g for g in GENERATORS if Path(g).exists()), None)
    if generator is None:
        pytest.skip("no Quadlet generator: it comes with Podman 4.4 (or name one with HYB_QUADLET)")
    (tmp_path / f"{unit.name}.container").write_text(quadlet.container(unit))
    done = subprocess.run(
        [generator, "-dryrun"], env={"QUADLET_UNIT_DIRS": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "unsupported" not in done.stderr
    start = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart="))
    for part in (
        "--read-only",
        "--cap-drop all",
        "no-new-privileges",
        "--pull=never",
        f":{unit.port}:8000",
        "--secret",
    ):
        assert part in start
    assert start.endswith(unit.runtime_image)


@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_documents_are_valid_kubernetes(unit: ServiceUnit, version: str) -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for document in yaml.safe_load_all(kubernetes.dump(unit)):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_would_see_a_misspelt_key() -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    document: Any = yaml.safe_load(yaml.safe_dump(kubernetes.documents(UNIT)[2]))
    volume = document["spec"]["template"]["spec"]["volumes"][0]
    volume["image"]["referense"] = volume["image"].pop("reference")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.33", strict=True)


def pod(unit: ServiceUnit) -> dict[str, Any]:
    spec: dict[str, Any] = kubernetes.documents(unit)[2]["spec"]["template"]["spec"]
    return spec


def test_the_pod_fits_the_restricted_security_standard() -> None:
    spec = pod(UNIT)
    container = spec["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "runAsUser" not in str(spec), "OpenShift's restricted-v2 gives the user id"


def test_the_startup_probe_waits_as_long_as_loading_may_take() -> None:
    for unit in VARIANTS.values():
        probe = pod(unit)["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= unit.startup


def test_the_selectors_meet_the_pods_labels() -> None:
    policy, service, deployment = kubernetes.documents(UNIT)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["egress"] == [] and "Egress" in policy["spec"]["policyTypes"]


def test_the_key_is_named_and_never_written() -> None:
    for text in (kubernetes.dump(UNIT), quadlet.container(UNIT)):
        assert "bot-api-key" in text
        assert "hyb_sk_" not in text and "stringData" not in text


@pytest.mark.parametrize("name", ["a", "bot-1", "0", "a" * 63])
def test_a_dns_label_is_taken(name: str) -> None:
    assert not label_mistake(name)


@pytest.mark.parametrize("name", ["", "Bot", "-bot", "bot-", "a.b", "a_b", "b\n", "böt", "a" * 64, "a b", "a%i"])
def test_what_is_no_dns_label_is_refused(name: str) -> None:
    assert label_mistake(name)


@pytest.mark.parametrize(
    "reference",
    ["localhost/bot", "localhost:5000/a/b:1.0", "quay.io/a/b@" + IMAGE, "r.example.com/a-b/c_d:v1@" + IMAGE],
)
def test_a_whole_image_reference_is_taken(reference: str) -> None:
    assert not reference_mistake(reference)


@pytest.mark.parametrize(
    "reference", ["bot", "bot:latest", "localhost/Bot", "localhost/a b", "localhost/a,rw", "a/b%h", "x/y@z"]
)
def test_what_is_no_whole_image_reference_is_refused(reference: str) -> None:
    assert reference_mistake(reference)


def test_a_tag_gives_way_to_the_digest_and_a_port_does_not() -> None:
    assert pinned("localhost:5000/bot:latest", IMAGE) == f"localhost:5000/bot@{IMAGE}"
    assert pinned("localhost:5000/bot", IMAGE) == f"localhost:5000/bot@{IMAGE}"
    assert pinned(f"localhost/bot@{MODEL}", IMAGE) == f"localhost/bot@{MODEL}"
