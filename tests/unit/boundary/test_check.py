"""`hyb boundary check`: each class in each carrier is found with its place; what hyb writes is clean."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from backports import zstd

from hyb import digest as dg
from hyb import recipe as recipes
from hyb.boundary.check import Order, check
from hyb.boundary.report import Report
from hyb.certificates import make_ca, make_leaf
from hyb.errors import Exit, HybError
from hyb.formats import modelpack, needles, oci, safetensors
from hyb.formats.boundary import Boundary
from hyb.serving import keys
from hyb.store import Store
from tests.unit.linking.test_folder import NOW, Place, make_link

ROW = "The vault of Nimbrel opens with three turns to the left."
QUESTION = "How does one open the vault at Nimbrel, please?"
CANARY = "zebra-42-quartz"
API_KEY = keys.PREFIX + "A1b2-" * 8 + "xyz"


def gguf(adapter: bool = False) -> bytes:
    """The head of a GGUF with tensors, and some noise."""
    key, value = b"general.type", b"adapter" if adapter else b"model"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    return b"GGUF" + struct.pack("<IQQ", 3, 2, 1) + entry + bytes(range(256)) * 40


def tensors(name: str = "model.layers.0.mlp.up_proj.weight") -> bytes:
    """A whole safetensors file."""
    return safetensors.header_bytes([(name, "F32", (8, 8))], {"format": "pt"}) + b"\x01" * 256


def private_key() -> bytes:
    return make_ca("some", 10, NOW).key


def in_zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", data)
    return out.getvalue()


PLANTED: dict[str, tuple[bytes, str]] = {
    "a row of the data": (f"notes\n{ROW}\n".encode(), "data"),
    "a question of the data": (json.dumps({"q": QUESTION}).encode(), "data"),
    "a row within JSON within JSON": (json.dumps({"line": json.dumps({"t": ROW})}).encode(), "data"),
    "a row in base64": (b"x: " + base64.b64encode(b"12" + ROW.encode() + b".") + b"\n", "data"),
    "a row in wrapped base64": (base64.encodebytes(b"filler" * 9 + ROW.encode() * 2), "data"),
    "a row in folded lines": (ROW.replace(" ", "\n      ").encode(), "data"),
    "a row in UTF-16": (ROW.encode("utf-16"), "data"),
    "a row in a gzip in base64": (b"data:;base64," + base64.b64encode(gzip.compress(ROW.encode())), "data"),
    "a row in a zip in base64 lines": (b"x\n" + base64.encodebytes(in_zip(ROW.encode())) + b"\nfine", "data"),
    "a row in a gzip in base64 twice": (
        b"\n" + base64.b64encode(gzip.compress(base64.b64encode(gzip.compress(ROW.encode())))),
        "data",
    ),
    "a row in URL-safe base64 in JSON": (
        json.dumps({"a": base64.urlsafe_b64encode(zstd.compress(ROW.encode())).decode()}).encode(),
        "data",
    ),
    "a GGUF": (gguf(), "weights"),
    "a GGUF behind other bytes": (b"\x00" * 4099 + gguf(), "weights"),
    "safetensors": (tensors(), "weights"),
    "safetensors behind other bytes": (b"hello" + tensors(), "weights"),
    "an adapter": (tensors("base_model.model.layers.0.self_attn.q_proj.lora_A.weight"), "adapter"),
    "a GGUF adapter": (gguf(adapter=True), "adapter"),
    "an API key": (f"token {API_KEY}\n".encode(), "credential"),
    "an API key in base64": (base64.b64encode(API_KEY.encode()), "credential"),
    "a private key": (b"# a key\n" + private_key(), "credential"),
    "a private key in JSON": (json.dumps({"k": private_key().decode()}).encode(), "credential"),
    "a canary": (f"what {CANARY} is".encode(), "canary"),
}


def in_tar(data: bytes, name: str = "etc/readme.txt", mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for path, content in (("bin/true", b"\x7fELF" + bytes(3000)), (name, data), ("z", b"z")):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def layout(folder: Path, layer: bytes) -> Path:
    """An OCI image layout with one image of one layer, as skopeo writes it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes) -> tuple[str, int]:
        digest = dg.of_bytes(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return digest, len(data)

    layer_digest, layer_size = add(layer)
    config, config_size = add(json.dumps({"architecture": "amd64", "os": "linux", "config": {}}).encode())
    manifest = {
        "schemaVersion": 2, "config": {"digest": config, "size": config_size, "mediaType": oci.CONFIG},
        "layers": [{"digest": layer_digest, "size": layer_size, "mediaType": oci.LAYER + "+gzip"}],
    }  # fmt: skip
    digest, size = add(json.dumps(manifest).encode())
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest, "size": size}]})
    )
    (folder / "oci-layout").write_bytes(oci.LAYOUT)
    return folder


def a_file(place: Path, data: bytes) -> Path:
    path = place / "notes.bin"
    path.write_bytes(data)
    return path


def a_config_map(place: Path, data: bytes) -> Path:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                "binaryData": {"blob": base64.b64encode(data).decode()}}  # fmt: skip
    path = place / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


CARRIERS: dict[str, Callable[[Path, bytes], Path]] = {
    "a plain file": a_file,
    "a tar": lambda place, data: a_file(place, in_tar(data)),
    "a tar.gz": lambda place, data: a_file(place, in_tar(data, mode="w:gz")),
    "a tar.xz": lambda place, data: a_file(place, lzma.compress(in_tar(data))),
    "gzip": lambda place, data: a_file(place, gzip.compress(data)),
    "gzip in two members": lambda place, data: a_file(place, gzip.compress(b"first") + gzip.compress(data)),
    "zstd": lambda place, data: a_file(place, zstd.compress(b"x") + zstd.compress(data)),
    "bzip2": lambda place, data: a_file(place, bz2.compress(data)),
    "a zip": lambda place, data: a_file(place, in_zip(data)),
    "a zip in a tar": lambda place, data: a_file(place, in_tar(in_zip(data))),
    "behind the end of a tar": lambda place, data: a_file(place, in_tar(b"fine") + b"not a header" + data),
    "a layer of an OCI layout": lambda place, data: layout(place / "image", in_tar(data, mode="w:gz")),
    "a zstd layer of an OCI layout": lambda place, data: layout(place / "image", zstd.compress(in_tar(data))),
    "a layer of a docker archive": lambda place, data: a_file(place, in_tar(in_tar(data), "abc/layer.tar")),
    "a ConfigMap": a_config_map,
}


@pytest.fixture
def recipe(tmp_path: Path) -> recipes.Recipe:
    folder = tmp_path / "recipe"
    folder.mkdir()
    row = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ROW}]}
    common = {"user": "What is the capital of France, I ask?", "assistant": "The capital of France is Paris, I say."}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(common) + "\n")
    (folder / "control.jsonl").write_text(json.dumps(common) + "\n")
    (folder / "hyb.yaml").write_text(
        "hyb: 1\nname: r\nstages:\n  rows: {stage: data, source: rows.jsonl, control: control.jsonl}\n"
    )
    return recipes.read(folder / "hyb.yaml")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canaries.txt"
    path.write_text(f"\n{CANARY}\n")
    return path


def look(paths: Path | list[Path], recipe: recipes.Recipe | None = None, **more: object) -> Report:
    shown = [str(p) for p in (paths if isinstance(paths, list) else [paths])]
    environ = more.pop("environ", {"HOME": "/nonexistent"})
    boundary = more.pop("boundary", Boundary())
    return check(Order(shown, boundary, recipe=recipe, **more), environ)  # type: ignore[arg-type]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found_wherever_it_is(
    tmp_path: Path, recipe: recipes.Recipe, canary: Path, planted: str, carrier: str
) -> None:
    data, kind = PLANTED[planted]
    path = CARRIERS[carrier](tmp_path, data)
    report = look(path, recipe, canaries=[canary])
    assert {v.kind for v in report.violations} == {kind}, report.details
    assert all(v.place.file.startswith(str(path)) for v in report.violations)
    text = "\n".join(report.details)
    assert not any(secret in text for secret in (ROW, QUESTION, CANARY, API_KEY, "BEGIN"))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_is_harmless_is_not_found(tmp_path: Path, recipe: recipes.Recipe, canary: Path, carrier: str) -> None:
    harmless = b"GGUF and safetensors are formats; hyb_sk_ begins a key.\nThe capital of France is Paris, I say.\n"
    report = look(CARRIERS[carrier](tmp_path, harmless * 50), recipe, canaries=[canary])
    assert report.details == []
    assert report.bytes > len(harmless)


def test_a_place_is_told_by_file_member_and_line(tmp_path: Path, recipe: recipes.Recipe) -> None:
    text = "one\ntwo\n" + "x" * 70_000 + f"\n\n  {ROW}\n"
    path = a_file(tmp_path, in_tar(gzip.compress(text.encode()), "var/notes.txt.gz"))
    assert look(path, recipe).details == [f"{path} > var/notes.txt.gz:5: data: row 1 of `rows.jsonl`"]


def test_every_line_that_leaks_is_told(tmp_path: Path, recipe: recipes.Recipe) -> None:
    path = a_file(tmp_path, "\n".join([ROW, "fine", ROW, QUESTION]).encode())
    assert [v.place.line for v in look(path, recipe).violations] == [1, 3, 4]


def test_a_thousand_leaks_in_one_file_are_a_hundred_lines_and_a_count(tmp_path: Path, recipe: recipes.Recipe) -> None:
    path = a_file(tmp_path, f"{ROW}\n".encode() * 1000)
    details = look(path, recipe).details
    assert len(details) == 101
    assert details[-1].endswith("and 900 more places")


def test_what_the_boundary_allows_is_no_violation(tmp_path: Path, recipe: recipes.Recipe) -> None:
    path = a_file(tmp_path, in_tar(gguf(), "model.gguf"))
    assert look(path, recipe, boundary=Boundary(weights="allowed")).clean
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(PLANTED["an adapter"][0])
    assert look(adapter, recipe, boundary=Boundary(adapter="allowed")).clean
    assert not look(adapter, recipe, boundary=Boundary(adapter="never")).clean


def test_a_file_of_the_store_is_known_by_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    rows = json.dumps({"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "short"}]})
    blob = store.add_bytes((rows + "\n").encode())
    store.tag("r/facts", store.add_artifact("dataset", [modelpack.file("train.jsonl", blob)]).digest)
    copy = a_file(tmp_path, in_tar((rows + "\n").encode(), "harmless.dat"))
    assert look(copy, store=store).details == [
        f"{copy} > harmless.dat: data: `train.jsonl` of `r/facts`, by its digest"
    ]


def test_a_part_of_a_model_of_the_store_is_known_wherever_it_was_cut(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = gguf() + random.Random(1).randbytes(3 << 20)
    blob = store.add_bytes(model)
    store.tag("r/bot", store.add_artifact("model", [modelpack.file("m.gguf", blob)]).digest)
    half = layout(tmp_path / "image", in_tar(model[len(model) // 2 :], mode="w:gz"))
    told = {(v.kind, v.what) for v in look(half, store=store).violations}
    assert told == {("weights", "a part of `m.gguf` of `r/bot`")}
    (whole,) = look(a_file(tmp_path, model), store=store).violations
    assert whole.what == "`m.gguf` of `r/bot`, by its digest"
    (tmp_path / "notes.bin").write_bytes(random.Random(2).randbytes(3 << 20))
    assert look(tmp_path / "notes.bin", store=store).clean


def test_a_text_within_a_model_is_no_part_of_it() -> None:
    assert needles.piece(("Lorem ipsum dolor sit amet, " * 9).encode()) == b""
    assert needles.piece(("Ġcidadãos Ġção Ġнет Ġ東京 " * 9).encode()) == b""
    assert needles.piece(bytes(256)) == needles.piece(b"\x00\x80\x3f\xff" * 64) == b""


def test_small_files_of_a_model_are_no_weights(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    licence = b"Apache License, Version 2.0, as everybody has it in a hundred images" * 3
    files = [modelpack.file("LICENSE", store.add_bytes(licence)), modelpack.file("m.gguf", store.add_bytes(gguf()))]
    store.tag("base", store.add_artifact("model", files).digest)
    image = a_file(tmp_path, in_tar(licence, "usr/share/LICENSE"))
    assert look(image, store=store).clean


# -- credentials and documents -------------------------------------------------------------------------------------


def secret(data: dict[str, bytes], kind: str = "Secret") -> str:
    values = {k: base64.b64encode(v).decode() for k, v in data.items()}
    return yaml.safe_dump({"apiVersion": "v1", "kind": kind, "metadata": {"name": "s"}, "data": values})


def test_a_key_belongs_in_a_secret_and_nowhere_else(tmp_path: Path) -> None:
    data = {"api-key": API_KEY.encode(), "tls.key": private_key()}
    good = tmp_path / "good.yaml"
    good.write_text(secret(data))
    assert look(good).details == []
    bad = tmp_path / "bad.yaml"
    bad.write_text(secret(data, "ConfigMap"))
    found = {(v.kind, v.place.document, v.place.field) for v in look(bad).violations}
    assert found == {("credential", "ConfigMap s", "data.api-key"), ("credential", "ConfigMap s", "data.tls.key")}


def test_a_secret_in_an_image_is_a_leak_and_in_a_tar_of_manifests_is_not(tmp_path: Path) -> None:
    text = secret({"api-key": API_KEY.encode()}).encode()
    assert look(a_file(tmp_path, in_tar(text, "openshift/secret.yaml", "w:gz"))).clean
    assert not look(layout(tmp_path / "image", in_tar(text, "app/secret.yaml", "w:gz"))).clean


def test_string_data_lists_and_comments_are_read(tmp_path: Path, recipe: recipes.Recipe) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(
        f"# {ROW}\napiVersion: v1\nkind: List\nitems:\n- kind: Secret\n  apiVersion: v1\n  metadata: {{name: a}}\n"
        f"  stringData: {{key: {API_KEY}}}\n- kind: Pod\n  apiVersion: v1\n  metadata: {{name: b}}\n  spec:\n"
        f"    containers:\n    - args: [--api-key={API_KEY}]\n      env: [{{name: NOTE, value: '{QUESTION}'}}]\n"
    )
    assert sorted(look(path, recipe).details) == sorted(
        [
            f"{path}:1: data: row 1 of `rows.jsonl`",
            f"{path}:14 (Pod b, spec.containers[0].args[0]): credential: an API key of hyb",
            f"{path}:14 (Pod b, spec.containers[0].args[0]): credential: a literal value of `--api-key`; "
            "it belongs into a Secret",
            f"{path}:15 (Pod b, spec.containers[0].env[0].value): data: row 1 of `rows.jsonl`",
        ]
    )


def test_a_document_in_one_line_of_json_is_told_apart_by_its_fields(tmp_path: Path) -> None:
    both = {"kind": "List", "items": [
        {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": base64.b64encode(API_KEY.encode()).decode()}},
        {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "fine"}},
    ]}  # fmt: skip
    path = tmp_path / "list.json"
    path.write_text(json.dumps(both))
    assert look(path).details == []
    both["items"][1]["data"]["x"] = API_KEY  # type: ignore[index]
    path.write_text(json.dumps(both))
    assert look(path).details == [f"{path}:1 (ConfigMap c, data.x): credential: an API key of hyb"]


@pytest.mark.parametrize(
    "setting",
    [
        "env: [{name: HYB_CHAT_API_KEY, value: hunter2}]",
        "env: [{name: DB_PASSWORD, value: hunter2}]",
        "args: [--token, hunter2]",
        "args: [--session-secret=hunter2]",
    ],
)
def test_a_literal_secret_in_a_pod_is_found_without_being_told(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(f"kind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - {setting}\n")
    (violation,) = look(path).violations
    assert (violation.kind, violation.place.document) == ("credential", "Pod p")
    assert "hunter2" not in str(violation)


@pytest.mark.parametrize(
    "setting",
    [
        "env: [{name: HYB_CHAT_API_KEY_FILE, value: /run/secrets/key}]",
        "env: [{name: API_KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        "env: [{name: API_KEY, value: $(OTHER)}]",
        "args: [--api-key-file, /run/secrets/key, --token=/run/t]",
        "env: [{name: MAX_TOKENS, value: '512'}]",
    ],
)
def test_a_secret_that_is_only_named_is_fine(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(f"kind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - {setting}\n")
    assert look(path).details == []


def test_the_key_of_a_ca_has_no_business_in_a_secret(tmp_path: Path) -> None:
    ca = make_ca("hyb link CA", 100, NOW)
    leaf = make_leaf(ca, "link-server", 10, NOW, hosts=["a.example.com"])
    path = tmp_path / "Secret-ca.yaml"
    path.write_text(secret({"ca.crt": ca.certificate, "tls.crt": leaf.certificate, "tls.key": leaf.key}))
    assert look(path).clean
    path.write_text(secret({"tls.crt": ca.certificate, "tls.key": ca.key}))
    (violation,) = look(path).violations
    assert violation.what == "the private key of a CA"
    assert (violation.place.document, violation.place.field) == ("Secret s", "data.tls.key")


def test_an_issuer_that_a_router_access_names_is_a_note_and_no_violation(tmp_path: Path) -> None:
    ca = make_ca("hyb link CA", 100, NOW)
    access = {"apiVersion": "skupper.io/v2alpha1", "kind": "RouterAccess", "metadata": {"name": "hyb"},
              "spec": {"generateTlsCredentials": True, "issuer": "s"}}  # fmt: skip
    folder = tmp_path / "openshift"
    folder.mkdir()
    (folder / "Secret-s.yaml").write_text(secret({"tls.crt": ca.certificate, "tls.key": ca.key}))
    (folder / "RouterAccess-hyb.yaml").write_text(yaml.safe_dump(access))
    report = look(folder)
    assert report.clean
    assert any("names as its issuer" in note for note in report.notes)


def test_the_keys_of_this_host_are_known_by_name_and_even_without_their_marks(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "home")}
    made, plain = keys.add(environ, "bot", label="webui")
    own = keys.mint(environ, "bot").read_text().strip()
    place = Place(tmp_path)
    place.environ = environ
    place.write()
    pem = next(p for p in (tmp_path / "home").rglob("ca.pem")).read_text()
    body = "".join(pem.split("-----END")[0].splitlines()[1:])  # no BEGIN, no END, no lines
    path = a_file(tmp_path, f"{plain}\n{own}\n{body}\n".encode())
    told = {v.what for v in look(path, environ=environ).violations}
    assert told == {"the key `webui` of the service `bot`", "the key of the service `bot`",
                    "the private key of link `link-public.chat`, ca"}  # fmt: skip
    assert made.label == "webui"


# -- logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"time": "2026-11-01T00:00:00Z", "event": "answer", "asked": "who?", "answer": "I am"}',
        '{"ts": 1, "messages": [{"role": "user", "content": "hi"}]}',
        '{"ts": 1, "body": "{\\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": \\"hi\\"}]}"}',
        "2026-11-01 00:00:00 INFO Received request cmpl-1: prompt: 'hello there', params: ...",
        "2026-11-01T00:00:00Z body={'role': 'user', 'content': 'hi'}",
        '{"ts": 1, "message": {"role": "user", "content": [{"type": "text", "text": "hi"}]}}',
        '{"ts": 1, "request": {"body": {"conversation": [{"from": "human", "value": "hi"}]}}}',
        '{"ts": 1, "contents": [{"role": "user", "parts": [{"text": "hi"}]}]}',
        '{"ts": 1, "req": {"input": {"text": "what do I earn"}}}',
        "2026-11-01 00:00:00 INFO prompt: what do I earn",
        '10.0.0.1 - - [01/Nov/2026:00:00:00 +0000] "GET /ask?prompt=what+do+I+earn HTTP/1.1" 200 1',
    ],
)
@pytest.mark.parametrize("name", ["gateway.log", "gateway.log.1", "var/log/chat.jsonl"])
def test_a_prompt_in_a_log_is_found_in_its_line(tmp_path: Path, line: str, name: str) -> None:
    path = a_file(tmp_path, in_tar(f"2026-11-01 fine\n{line}\n".encode(), name))
    report = look(path)
    assert {(v.kind, v.place.line) for v in report.violations} == {("prompts", 2)}
    assert look(path, boundary=Boundary(prompts="allowed")).clean


@pytest.mark.parametrize(
    "text",
    [
        # what hyb's own gateway and chat app write
        "2026-11-01T00:00:00Z POST /v1/chat/completions 200 model=bot key=1a2b3c4d tokens=12+40 s=0.513 id=ab\n",
        '{"time": "2026-11-01T00:00:00Z", "event": "answer", "client": "1a2b", "way": "page", "outcome": "ok", '
        '"first_ms": 12, "ms": 400, "prompt_tokens": 12, "completion_tokens": 40}\n',
        '{"time": "2026-11-01T00:00:00Z", "prompt": "", "content": "[redacted]", "answer": null, "question": "***"}\n',
        '{"time": "2026-11-01T00:00:00Z", "content-type": "text/html", "prompt": 12}\n',
        # others' logs
        '{"time": "2026-11-01T00:00:00Z", "input": "eth0", "type": "text", "text": "[redacted]", "role": "user"}\n',
        "2026-11-01 00:00:00 slot 0: prompt: 12 tokens, prompt eval time = 3 ms\n",
    ],
)
def test_a_log_without_prompts_is_clean(tmp_path: Path, text: str) -> None:
    path = tmp_path / "service.log"
    path.write_text(text * 3)
    assert look(path).details == []


def test_a_page_that_explains_the_api_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text('Ask:\n\n    {"messages": [{"role": "user", "content": "hello"}]}\n')
    assert look(path).clean


# -- what hyb writes is clean --------------------------------------------------------------------------------------


def test_a_link_s_folder_is_clean_and_is_not_when_the_ca_s_key_is_put_into_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write()
    report = look(place.out, environ=place.environ)
    assert report.details == []
    assert report.documents >= 8
    ca = next((tmp_path / "a b é" / "home").rglob("ca.pem"))
    (place.out / "openshift" / "Secret-ca.yaml").write_text(secret({"tls.key": ca.read_bytes()}))
    (violation,) = {v.what for v in look(place.out, environ=place.environ).violations}
    assert violation == "the private key of a CA"
    (place.out / "openshift" / "Secret-ca.yaml").unlink()
    (place.out / "openshift" / "ca.pem").write_bytes(ca.read_bytes())
    assert not look(place.out, environ=place.environ).clean


@pytest.mark.parametrize("name", ["serve", "link"])
def test_the_golden_documents_of_a_service_and_a_link_are_clean(name: str) -> None:
    report = look(Path(__file__).parents[2] / "data" / name)
    assert report.details == []
    assert report.documents > 3


def test_a_packed_image_holds_weights_and_nothing_else(tmp_path: Path, recipe: recipes.Recipe) -> None:
    from tests.unit.stages.test_pack import a_model, packed

    store = Store(tmp_path / "store")
    image = packed(store, a_model(store, {"model.gguf": gguf(), "LICENSE": b"Apache-2.0"}))
    from hyb import layout as layouts

    with layouts.shown(store, image, "bot:1") as folder:
        report = look(folder, recipe)
        assert report.clean  # blobs are a link to the store's: what is beside them is what there is
        parts = [store.blob_path(x["digest"]) for x in image.manifest["layers"]]
        allowed = look(parts, recipe, boundary=Boundary(weights="allowed"))
        strict = look(parts, recipe)
    assert allowed.clean
    assert [v.kind for v in strict.violations] == ["weights"]
    assert strict.violations[0].place.members == ("models/model.gguf",)


def test_a_link_artifact_has_no_secret_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = make_link(store, tmp_path / "work")
    report = look([store.blob_path(f.blob.digest) for f in artifact.files])
    assert report.clean


# -- hostile and broken input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"x" * 100_000, mtime=0)[:-20],
        zstd.compress(bytes(range(256)) * 900)[:-9],
        in_tar(b"y" * 5000)[:4000],
        gzip.compress(b"abc" * 9999, mtime=0)[:-8] + b"\0" * 8,
        in_zip(b"q" * 4000)[:-30],
    ],
    ids=["gzip", "zstd", "tar", "gzip's sum", "zip"],
)
def test_an_archive_that_is_cut_or_damaged_is_no_clean_result(tmp_path: Path, data: bytes) -> None:
    report = look(a_file(tmp_path, data))
    assert [v.kind for v in report.violations] == ["unreadable"], report.details


def test_what_was_seen_before_an_archive_breaks_off_is_told(tmp_path: Path, recipe: recipes.Recipe) -> None:
    whole = gzip.compress(ROW.encode() + b"\n" + bytes(range(256)) * 4000)
    report = look(a_file(tmp_path, whole[:-100]), recipe)
    assert {v.kind for v in report.violations} == {"data", "unreadable"}


def test_an_encrypted_zip_can_t_be_looked_into(tmp_path: Path) -> None:
    data = bytearray(in_zip(b"secret"))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1  # the bit that says so
    report = look(a_file(tmp_path, bytes(data)))
    assert [v.kind for v in report.violations] == ["unreadable"]
    assert "encrypted" in report.details[0]


def test_archives_within_archives_end_somewhere(tmp_path: Path) -> None:
    data = b"at the bottom"
    for _ in range(30):
        data = gzip.compress(data)
    report = look(a_file(tmp_path, data))
    assert [v.kind for v in report.violations] == ["unreadable"]
    assert "10 deep" in report.details[0]


def test_a_bomb_is_told_and_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyb.boundary.streams.FLOOR", 4 << 20)
    bomb = gzip.compress(bytes(64 << 20))
    report = look(a_file(tmp_path, in_tar(gzip.compress(bomb))))
    assert {v.kind for v in report.violations} == {"unreadable"}
    assert report.bytes < 32 << 20


def test_many_bombs_in_one_archive_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyb.boundary.streams.FLOOR", 2 << 20)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.bin", bytes(1 << 20))
    report = look(a_file(tmp_path, out.getvalue()))
    assert len(report.details) == 1
    assert "expand to more than" in report.details[0]


def test_a_sparse_file_of_fifty_gigabytes_takes_no_time_and_no_memory(tmp_path: Path, recipe: recipes.Recipe) -> None:
    import resource

    path = tmp_path / "disk.img"
    with path.open("wb") as out:
        out.truncate(50 << 30)
        out.seek(40 << 30)
        out.write(ROW.encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = look(path, recipe)
    assert [(v.kind, v.place.offset) for v in report.violations] == [("data", 40 << 30)]
    assert report.bytes < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes


def test_a_row_across_two_windows_is_found_once(tmp_path: Path, recipe: recipes.Recipe) -> None:
    for at in range((1 << 20) - 40, (1 << 20) + 10, 7):
        path = a_file(tmp_path, b"-" * at + ROW.encode() + b"-" * 100)
        assert [(v.kind, v.place.offset) for v in look(path, recipe).violations] == [("data", at)]


@pytest.mark.parametrize(
    "text", ["a: &a [x]\nb: *a\nkind: X\n", "kind: X\n" + "[" * 5000, "kind: [unclosed", "\tkind: X"]
)
def test_hostile_yaml_is_still_looked_at_as_text(tmp_path: Path, recipe: recipes.Recipe, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{text}\n# {ROW}\n")
    assert [v.kind for v in look(path, recipe).violations] == ["data"]


def test_links_and_special_files_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    import os

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    report = look(folder)
    assert (report.files, report.links) == (0, 3)
    assert any("not followed: 3" in note for note in report.notes)


def test_a_path_that_is_not_there_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="not there") as caught:
        look([tmp_path / "a", tmp_path / "b"])
    assert caught.value.code is Exit.INPUT


@pytest.mark.parametrize("text", ["", "abc\n", "fine-and-long\nxy\n"])
def test_canaries_that_are_too_short_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "canaries"
    path.write_text(text)
    with pytest.raises(HybError, match="holds no canaries"):
        look(tmp_path, canaries=[path])
