"""The documents of a service, for all platforms: golden, valid by each platform's own rules, locked down, no secret."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render import compose, kserve, kube, kubernetes, quadlet
from hyb.render.service_guide import guide
from hyb.render.unit import GPU, ServiceUnit, environment, pinned, reference_mistake
from hyb.serving import bare
from tests.need import need, oracle

DATA = Path(__file__).parents[2] / "data" / "serve"
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
    "full": replace(
        UNIT, name="full", adapters=("support", "sales"), canary={"support": 10, "sales": 5}, keys=True, tls=True,
        host="192.0.2.7", port=8443, gpus=1, runtime="runsc", pids=512,
    ),
    "socket": replace(
        UNIT, name="socket", unix_socket=True, userns="auto", adapters=("support",), runtime="/usr/bin/crun",
        runtime_image=f"localhost/lab/bot@{IMAGE}", model_image="",
    ),
    "copy": replace(UNIT, name="copy", copy=True, model_size=3 << 30, adapters=("support",), userns="auto"),
}  # fmt: skip
TARGETS = ("quadlet", "kube", "compose", "kubernetes", "kserve")


def texts(unit: ServiceUnit) -> dict[str, str]:
    """File name → text of every document that a unit can have."""
    made = {
        f"{unit.name}.container": quadlet.container(unit),
        f"{unit.name}.5.container": quadlet.container(unit, "5.0"),
    }
    if not unit.artifact:
        made[f"{unit.name}.compose.yaml"] = compose.dump(unit)
    if not unit.unix_socket:
        made[f"{unit.name}.yaml"] = kubernetes.dump(kubernetes.documents(unit))
    if not unit.unix_socket and not unit.artifact:
        made[f"{unit.name}.pod.yaml"] = kubernetes.dump(kube.documents(unit))
    if unit.model_image and not unit.adapters:
        made[f"{unit.name}.isvc.yaml"] = kubernetes.dump(kserve.inference_service(unit))
        made[f"{unit.name}.llm.yaml"] = kubernetes.dump(kserve.llm_inference_service(unit))
    return made


CLUSTER = {name: unit for name, unit in VARIANTS.items() if not unit.unix_socket}
KSERVE = {name: unit for name, unit in CLUSTER.items() if unit.model_image and not unit.adapters}


def golden(path: Path, text: str) -> None:
    """Compare with a golden file; `HYB_GOLDEN=write` writes it anew."""
    if os.environ.get("HYB_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_documents_are_the_golden_ones(name: str) -> None:
    for file, text in texts(VARIANTS[name]).items():
        golden(DATA / file, text)
    golden(DATA / f"{name}.APPLY.md", guide(VARIANTS[name], TARGETS))


KEYS_OF_PODMAN_4_4 = set(
    """AddCapability AddDevice Annotation ContainerName DropCapability Environment EnvironmentFile EnvironmentHost Exec
    ExposeHostPort Group Image Label Network NoNewPrivileges Notify PodmanArgs PublishPort ReadOnly RemapGid RemapUid
    RemapUidSize RemapUsers RunInit SeccompProfile Timezone User VolatileTmp Volume""".split()  # noqa: SIM905
)


KEYS_OF_PODMAN_5_0 = KEYS_OF_PODMAN_4_4 | set(
    """HealthCmd HealthInterval HealthRetries HealthStartPeriod HealthTimeout Mount PidsLimit Pull Secret
    UserNS""".split()  # noqa: SIM905
)
KEYS = {"4.4": KEYS_OF_PODMAN_4_4, "5.0": KEYS_OF_PODMAN_5_0}


@pytest.mark.parametrize("podman", KEYS)
@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
def test_the_unit_has_only_keys_that_its_podman_knows(unit: ServiceUnit, podman: str) -> None:
    section = quadlet.container(unit, podman).split("[Container]\n")[1].split("\n[Service]")[0]
    assert {line.partition("=")[0] for line in section.strip().splitlines()} <= KEYS[podman]


def generated(folder: Path, name: str, text: str) -> tuple[list[str], str]:
    """(the words of ExecStart that Podman's generator makes of a unit, the whole service); it must not complain."""
    need("quadlet")
    (folder / f"{name}.container").write_text(text)
    done = subprocess.run(
        [str(oracle("quadlet")), "-dryrun"],
        env={"QUADLET_UNIT_DIRS": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unsupported" not in done.stderr
    (start,) = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
    return shlex.split(start.partition("=")[2]), done.stdout


@pytest.mark.parametrize("podman", quadlet.VERSIONS)
@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
def test_podmans_own_generator_takes_the_unit(unit: ServiceUnit, podman: str, tmp_path: Path) -> None:
    words, service = generated(tmp_path, unit.name, quadlet.container(unit, podman))
    line = " ".join(words)
    for part in ("--read-only", "--cap-drop all", "no-new-privileges", "--secret", f"--memory {unit.memory}"):
        assert part in line
    assert f"--pids-limit {unit.pids}" in line or f"--pids-limit={unit.pids}" in line
    assert "--pull=never" in line or "--pull never" in line
    assert words[-1] == unit.runtime_image
    assert any(word.endswith(json.dumps(list(quadlet.HEALTHY), separators=(",", ":"))) for word in words), line
    assert (f"{unit.port}:8000" in line) != unit.unix_socket
    assert ("--network=none" in line or "--network none" in line) == unit.unix_socket
    assert (unit.gpu_device in line) == bool(unit.gpus)
    assert ("--mount" in line) == bool(unit.model_image)
    assert not unit.unix_socket or "RuntimeDirectory=hyb-socket" in service


def test_the_generator_would_see_a_misspelt_key(tmp_path: Path) -> None:
    need("quadlet")
    (tmp_path / "bot.container").write_text(quadlet.container(UNIT).replace("ReadOnly=", "ReadOnyl="))
    argv, env = [str(oracle("quadlet")), "-dryrun"], {"QUADLET_UNIT_DIRS": str(tmp_path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert "unsupported key 'ReadOnyl'" in done.stderr


@pytest.mark.parametrize("unit", VARIANTS.values(), ids=VARIANTS)
def test_the_compose_file_fits_the_schema_of_compose(unit: ServiceUnit) -> None:
    need("compose_schema", "jsonschema")
    assert not compose_mistakes(compose.document(unit))


def test_the_schema_of_compose_would_see_a_misspelt_key_and_a_wrong_type() -> None:
    need("compose_schema", "jsonschema")
    document = json.loads(json.dumps(compose.document(UNIT)))
    service = document["services"]["bot"]
    service["red_only"] = service.pop("read_only")
    service["healthcheck"]["interval"] = 30
    assert len(compose_mistakes(document)) == 2


def compose_mistakes(document: Any) -> list[str]:
    from jsonschema import Draft7Validator

    path = oracle("compose_schema")
    assert path
    return [e.message for e in Draft7Validator(json.loads(path.read_text())).iter_errors(document)]


class KServe:
    """KServe's own Python models, read and not imported: the fields that each type has, and their types."""

    def __init__(self, wheel: Path) -> None:
        self.types: dict[str, dict[str, str]] = {}
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("kserve/models/"):
                    self.types |= self._read(archive.read(name))

    @staticmethod
    def _read(source: bytes) -> dict[str, dict[str, str]]:
        found = {}
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    a.targets[0].id: ast.literal_eval(a.value)
                    for a in node.body
                    if isinstance(a, ast.Assign) and isinstance(a.targets[0], ast.Name)
                    and a.targets[0].id in ("openapi_types", "attribute_map")
                }  # fmt: skip
                if len(tables) == 2:
                    kinds = tables["openapi_types"]
                    found[node.name] = {key: kinds[field] for field, key in tables["attribute_map"].items()}
        return found

    def mistakes(self, value: Any, kind: str, where: str) -> Iterator[str]:
        """Fields that no type of KServe has. Core Kubernetes types inside are the matter of another test."""
        if kind.startswith("list["):
            if not isinstance(value, list):
                yield f"{where} is no list"
                return
            for number, item in enumerate(value):
                yield from self.mistakes(item, kind[5:-1], f"{where}[{number}]")
        elif kind in self.types:
            for key, item in value.items():
                if key not in self.types[kind]:
                    yield f"{where}.{key}"
                else:
                    yield from self.mistakes(item, self.types[kind][key], f"{where}.{key}")
        elif kind in ("str", "int", "bool") and not isinstance(value, {"str": str, "int": int, "bool": bool}[kind]):
            yield f"{where} is no {kind}"


def kserve_mistakes(documents: list[Any]) -> list[str]:
    models = KServe(oracle("kserve"))  # type: ignore[arg-type]
    found = []
    for document in documents:
        version = document["apiVersion"].partition("/")[2]
        if document["apiVersion"].startswith("serving.kserve.io/"):
            kind = f"{version[0].upper()}{version[1:]}{document['kind']}"
            assert kind in models.types, kind
            found += models.mistakes(document, kind, document["kind"])
    return found


@pytest.mark.parametrize("unit", KSERVE.values(), ids=KSERVE)
def test_kserves_documents_have_only_fields_that_kserve_has(unit: ServiceUnit) -> None:
    need("kserve")
    assert kserve_mistakes(kserve.inference_service(unit)) == []
    assert kserve_mistakes(kserve.llm_inference_service(unit)) == []


def test_kserves_models_would_see_a_misspelt_field_and_a_wrong_type() -> None:
    need("kserve")
    documents = yaml.safe_load(yaml.safe_dump(kserve.inference_service(UNIT)))
    predictor = documents[2]["spec"]["predictor"]
    predictor["model"]["storageURI"] = predictor["model"].pop("storageUri")
    predictor["minReplicas"] = "1"
    assert kserve_mistakes(documents) == [
        "InferenceService.spec.predictor.minReplicas is no int",
        "InferenceService.spec.predictor.model.storageURI",
    ]


def pods_of_kserve(unit: ServiceUnit) -> Iterator[dict[str, Any]]:
    """The pod specs inside KServe's documents, as core Kubernetes knows them."""
    llm = kserve.llm_inference_service(unit)[0]["spec"]
    assert set(llm) == {"model", "replicas", "router", "template"} and set(llm["model"]) == {"uri", "name"}
    yield llm["template"]
    runtime = kserve.inference_service(unit)[1]["spec"]
    yield {key: runtime[key] for key in ("containers", "volumes")}


@pytest.mark.parametrize("unit", KSERVE.values(), ids=KSERVE)
def test_the_pods_inside_kserves_documents_are_valid_kubernetes(unit: ServiceUnit) -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for spec in pods_of_kserve(unit):
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": unit.name}, "spec": spec}
        kubernetes_validate.validate(document, "1.36", strict=True)


def test_kserve_gets_the_model_by_digest_and_the_server_finds_it_there() -> None:
    isvc, llm = kserve.inference_service(UNIT)[2], kserve.llm_inference_service(UNIT)[0]
    assert isvc["spec"]["predictor"]["model"]["storageUri"] == f"oci+native://localhost/lab/bot@{IMAGE}"
    assert llm["spec"]["model"] == {"uri": f"oci+native://localhost/lab/bot@{IMAGE}", "name": "bot"}
    for spec in pods_of_kserve(UNIT):
        assert {"name": "HYB_MODELS", "value": "/mnt/models"} in spec["containers"][0]["env"]


@pytest.mark.parametrize("unit", CLUSTER.values(), ids=CLUSTER)
@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_documents_are_valid_kubernetes(unit: ServiceUnit, version: str) -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for document in [*kubernetes.documents(unit), *kube.documents(unit)]:
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


def test_the_probes_ask_for_life_and_for_the_model_apart() -> None:
    container = pod(VARIANTS["full"])["containers"][0]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/ready", "readiness": "/ready", "liveness": "/health",
    }  # fmt: skip
    assert {get["scheme"] for get in asked.values()} == {"HTTPS"}
    assert "scheme" not in pod(UNIT)["containers"][0]["livenessProbe"]["httpGet"]


def test_an_old_cluster_copies_the_model_where_an_image_volume_would_show_it() -> None:
    spec = pod(VARIANTS["copy"])
    (copier,) = spec["initContainers"]
    assert copier["image"] == UNIT.model_image
    assert copier["command"] == ["cp", "-R", "/models", "/adapters", "/volume/"]
    assert copier["securityContext"] == spec["containers"][0]["securityContext"]
    (volume,) = [v for v in spec["volumes"] if v["name"] == "model"]
    assert int(volume["emptyDir"]["sizeLimit"]) > 3 << 30
    env = {e["name"]: e["value"] for e in spec["containers"][0]["env"]}
    assert (env["HYB_MODELS"], env["HYB_ADAPTERS"]) == ("/models/models", "/models/adapters")
    assert spec["hostUsers"] is False


@pytest.mark.parametrize("mounted", [True, False], ids=["a mounted image", "a runnable image"])
def test_the_entry_point_finds_model_and_adapters_where_the_environment_says(mounted: bool, tmp_path: Path) -> None:
    """As `pack` lays them: /models and /adapters of the image, which is mounted as a whole, or run."""
    for file in ("models/model.gguf", "adapters/support/adapter.gguf"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"GGUF")
    unit = replace(UNIT, adapters=("support",), model_image=UNIT.model_image if mounted else "")
    paths = replace(quadlet.PATHS, models=str(tmp_path) if mounted else str(tmp_path / "models"))
    env = environment(unit, paths)
    assert bare.find(Path(env["HYB_MODELS"]))[1] == tmp_path / "models" / "model.gguf"
    adapters = Path(env["HYB_ADAPTERS"]) if mounted else tmp_path / env["HYB_ADAPTERS"].lstrip("/")
    assert [(a.name, a.path) for a in bare.adapters(adapters)] == [
        ("support", str(tmp_path / "adapters/support/adapter.gguf"))
    ]


def test_a_gpu_is_a_counted_resource_on_kubernetes_and_a_cdi_device_for_podman() -> None:
    unit = VARIANTS["full"]
    assert pod(unit)["containers"][0]["resources"]["limits"][GPU] == "1"
    assert compose.document(unit)["services"]["full"]["devices"] == ["nvidia.com/gpu=all"]
    assert "AddDevice=nvidia.com/gpu=all\n" in quadlet.container(unit)
    assert kube.documents(unit)[0]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu=all"] == "1"
    for text in texts(UNIT).values():
        assert "nvidia" not in text


def test_a_service_on_a_socket_has_no_network_and_no_port() -> None:
    service = compose.document(VARIANTS["socket"])["services"]["socket"]
    assert service["network_mode"] == "none" and "ports" not in service
    assert service["environment"]["HYB_UNIX_SOCKET"] == "/sockets/hyb.sock"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_image_that_holds_the_model_is_named_by_digest(name: str) -> None:
    for text in texts(VARIANTS[name]).values():
        assert text.count("localhost/lab/bot") + text.count("example.com/lab/bot") == text.count(f"lab/bot@{IMAGE}") > 0


def test_the_startup_probe_waits_as_long_as_loading_may_take() -> None:
    for unit in CLUSTER.values():
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
    for text in texts(UNIT).values():
        assert "bot-api-key" in text
        assert "hyb_sk_" not in text and "stringData" not in text


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
