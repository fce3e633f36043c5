"""The auditor's page: alone, safe, the same each time; and every command that it shows really checks what it says."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hyb import recipe as recipes
from hyb.attest import audit
from hyb.errors import HybError
from hyb.formats import audit as facts
from hyb.formats import audit_page
from hyb.hub import names
from hyb.progress import silent
from hyb.signing import attached, cosign, dsse, keys, model
from tests.need import need
from tests.provenance import SECRET_ROW, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.run()
    return lab


def page(lab: Lab) -> str:
    return audit_page.render(audit.gather(lab.recipe, lab.store))


def sign(lab: Lab, name: str, key_file: Path, curve: ec.EllipticCurve | None = None) -> None:
    """Sign an output, with a key on P-256 or on `curve`, or with Ed25519 where the file is called so."""
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if key_file.stem == "ed"
        else ec.generate_private_key(curve or ec.SECP256R1())
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key_file.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    signer = keys.PrivateKey(key, keys.load_public(key_file))
    attached.sign(lab.store, lab.store.artifact(lab.store.resolve(name)), name, signer, silent)


def prints(lab: Lab, check: facts.Check, **env: str) -> str:
    done = subprocess.run(
        ["bash", "-c", check.command], cwd=lab.folder, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "STORE": str(lab.store.root), **env},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("program", ["", "jq", "skopeo", "openssl"])
def test_every_command_of_the_page_prints_what_the_page_says(lab: Lab, tmp_path: Path, program: str) -> None:
    for name in {program, "jq"} - {""}:
        need(name)
    key = tmp_path / "it's my key.pub"
    sign(lab, "r/base", key)
    found = [c for c in facts.checks(audit.gather(lab.recipe, lab.store)) if c.needs == program]
    assert found
    for check in found:
        assert check.prints in prints(lab, check, KEY=str(key)), check.command


def test_the_commands_say_no_to_what_is_wrong(lab: Lab, tmp_path: Path) -> None:
    need("jq")
    key, other = tmp_path / "key.pub", tmp_path / "other.pub"
    sign(lab, "r/base", key)
    sign(lab, "r/facts", other)
    checks = list(facts.checks(audit.gather(lab.recipe, lab.store)))
    signed = next(c for c in checks if c.needs == "openssl" and "r/base" in c.title)
    assert "Verified OK" in prints(lab, signed, KEY=str(key))
    assert "Verified OK" not in prints(lab, signed, KEY=str(other))
    (lab.folder / "held.jsonl").write_text("{}")
    held = next(c for c in checks if "held.jsonl" in c.title)
    assert held.prints not in prints(lab, held)
    blob = lab.store.blob_path(lab.store.resolve("r/van"))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes() + b" ")
    assert "whole" not in prints(lab, checks[0])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), None], ids=lambda c: c and c.name)
def test_a_signature_by_any_kind_of_key_is_checked_by_the_command(
    lab: Lab, tmp_path: Path, curve: ec.EllipticCurve | None
) -> None:
    need("jq")
    key = tmp_path / ("key.pub" if curve else "ed.pub")
    sign(lab, "r/base", key, curve)
    good, about = signatures(lab)
    assert "Verified OK" in prints(lab, good, KEY=str(key))
    assert prints(lab, about).strip() == about.prints == lab.store.resolve("r/base")[7:]
    other = keys.generate(tmp_path / "other", kind="p256" if curve else "ed25519")
    assert "Verified OK" not in prints(lab, good, KEY=str(other.public))


def signatures(lab: Lab) -> list[facts.Check]:
    return [c for c in facts.checks(audit.gather(lab.recipe, lab.store)) if c.title.startswith("The signature of")]


def test_a_good_signature_of_something_else_is_seen_to_be_one(lab: Lab, tmp_path: Path) -> None:
    need("jq")
    sign(lab, "r/facts", tmp_path / "key.pub")
    facts_, base = (lab.store.artifact(lab.store.resolve(n)) for n in ("r/facts", "r/base"))
    (made,) = attached.of(lab.store, facts_)
    attached.add(lab.store, base, lab.store.read(made.files[0].blob.digest))
    about = [c for c in signatures(lab) if "r/base" in c.title and c.needs == "jq"]
    assert [c.prints for c in about] == [base.digest[7:]]
    assert prints(lab, about[0]).strip() == facts_.digest[7:]


def test_an_images_signature_in_cosigns_form_has_commands_of_its_own(lab: Lab, tmp_path: Path) -> None:
    need("jq")
    pair = keys.generate(tmp_path / "keys")
    target = names.parse("oci://registry.example/lab/bot:1")
    assert isinstance(target, names.OCI)
    base = lab.store.artifact(lab.store.resolve("r/base"))
    cosign.sign(lab.store, base, target, keys.load_private(pair.private))
    good, about = signatures(lab)
    assert keys.load_public(pair.public).hint in good.title
    assert "Verified OK" in prints(lab, good, KEY=str(pair.public))
    assert prints(lab, about).strip() == about.prints == base.digest


def test_a_publishers_signature_of_files_alone_promises_no_manifest(lab: Lab, tmp_path: Path) -> None:
    need("jq")
    pair = keys.generate(tmp_path / "keys")
    base = lab.store.artifact(lab.store.resolve("r/base"))
    payload = model.statement("tiny", {f.path: f.blob.digest for f in base.files})
    attached.add(lab.store, base, dsse.sign(payload, dsse.IN_TOTO, keys.load_private(pair.private)))
    (good,) = signatures(lab)
    assert "Verified OK" in prints(lab, good, KEY=str(pair.public))


def test_the_page_shows_the_commands_as_they_are(lab: Lab) -> None:
    shown = {html.unescape(p) for p in re.findall(r"<pre>(.*?)</pre>", page(lab), re.DOTALL)}
    assert {c.command for c in facts.checks(audit.gather(lab.recipe, lab.store))} <= shown


class Outline(HTMLParser):
    """Tags in their order, to see that each is closed and headings go down by one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in ("meta", "rect", "path", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_well_made(lab: Lab) -> None:
    text = page(lab)
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.ids) == len(set(outline.ids))
    assert all(x.startswith("data:") or x.removeprefix("#") in outline.ids for x in outline.links)
    assert "<script" not in text and "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)=[\"']?https?:", text)
    assert text == page(lab), "the same bytes each time"


def test_no_row_and_no_place_of_the_machine_is_on_the_page(lab: Lab, tmp_path: Path) -> None:
    text = page(lab)
    hidden = "".join(base64.b64decode(d).decode() for d in re.findall(r"base64,([^\"]+)", text))
    assert '"bomFormat": "CycloneDX"' in hidden and "https://slsa.dev/provenance/v1" in hidden
    for part in (text, hidden):
        assert SECRET_ROW not in part and str(tmp_path) not in part


def test_a_recipe_half_run_says_what_is_missing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(HybError, match="nothing of `r` has run yet"):
        audit.gather(lab.recipe, lab.store)
    lab.run(to="facts")
    text = page(lab)
    assert "incomplete" in text and "The stage van has not run." in text


def test_a_receipt_of_another_step_than_the_lock_says_is_told(lab: Lab) -> None:
    path = lab.folder / "hyb.lock"
    lock = json.loads(path.read_text())
    lock["stages"]["van"]["key"] = "sha256:" + "7" * 64
    path.write_text(json.dumps(lock))
    assert any("the lock says that step `777777777777`" in p for p in audit.gather(lab.recipe, lab.store).problems)


def test_a_store_that_lacks_it_all_gives_a_page_that_says_broken(lab: Lab, tmp_path: Path) -> None:
    from hyb.store import Store

    text = audit_page.render(audit.gather(lab.recipe, Store(tmp_path / "empty")))
    assert ">broken<" in text and "What is wrong" in text


def test_hostile_names_become_no_markup(lab: Lab) -> None:
    evil = "<img src=x onerror=alert(1)>\x1b]0;x\x07"
    model = lab.store.artifact(lab.store.resolve("r/base"))
    lab.store.tag("a" + evil, model.digest)
    lab.store.add_artifact("signature", [], subject=model, meta={"key_id": evil})
    (lab.folder / "hyb.yaml").write_text((lab.folder / "hyb.yaml").read_text().replace("source: rows", "source: rows"))
    text = audit_page.render(audit.gather(recipes.read(lab.folder / "hyb.yaml"), lab.store))
    assert "<img" not in text and "\x1b" not in text and "&lt;img" in text
