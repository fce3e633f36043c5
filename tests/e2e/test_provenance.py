"""attest, sbom and report as a person and an auditor use them: the installed hyb, a real store, real signatures."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from hyb import receipt
from hyb.store import Store
from tests.hyb import Hyb
from tests.need import need, oracle
from tests.provenance import Lab


class Desk:
    """A recipe that has run in a home of its own."""

    def __init__(self, root: Path) -> None:
        self.hyb = Hyb(root / "home")
        self.hyb.home.mkdir()
        self.lab = Lab(root)
        self.lab.store = Store(self.hyb.store)
        self.folder = str(self.lab.folder)
        self.hyb.ok("run", self.folder, "--offline")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def test_the_tree_is_shown_in_each_format_and_its_check_is_quiet(desk: Desk, tmp_path: Path) -> None:
    assert "every link is whole" in desk.hyb.ok("attest", "r/van", "r/facts")
    assert "└─ r/service  service" in desk.hyb.ok("attest", "show", "r/van", "--offline")
    assert desk.hyb.json("attest", "show", "r/van")["whole"] is True
    assert json.loads(desk.hyb.ok("attest", "show", "r/van", "--format", "json"))["whole"] is True
    assert desk.hyb.ok("attest", "show", "r/van", "--format", "dot").startswith("digraph")
    out = tmp_path / "x.svg"
    desk.hyb.ok("attest", "show", "r/van", "--format", "svg", "-o", str(out))
    assert out.read_text().startswith("<svg")
    lines = desk.hyb.ok("attest", "show", "r/van", "--format", "intoto").splitlines()
    assert [json.loads(line)["_type"] for line in lines] == ["https://in-toto.io/Statement/v1"] * 3
    rows = desk.hyb.json("attest", "show", "r/facts", "--row", "rows/two.jsonl:2")
    assert [(r["source"], r["line"]) for r in rows] == [("two.jsonl", 2)]


def test_mistakes_have_their_code_and_words(desk: Desk) -> None:
    assert "did you mean `r/van`" in desk.hyb.fails(3, "attest", "show", "r/va")
    assert "is no format" in desk.hyb.fails(2, "attest", "show", "r/van", "--format", "png")
    assert "no row of data" in desk.hyb.fails(3, "attest", "show", "r/van", "--row", "nothing of it")
    assert "nothing in the store is called" in desk.hyb.fails(3, "sbom", "nonsense")
    assert "no recipe" in desk.hyb.fails(3, "report", "/nowhere")
    assert "can't write" in desk.hyb.fails(3, "sbom", "r/van", "-o", "/nowhere/x.json")
    assert "no fact of a host" in desk.hyb.fails(
        3, "data", f"{desk.folder}/held.jsonl", "--name", "x", env={"HYB_RECEIPT_HOST": "os,mood"}
    )


def test_a_command_of_one_stage_has_a_receipt_too_with_what_the_user_allows(desk: Desk) -> None:
    desk.hyb.ok("data", f"{desk.folder}/held.jsonl", "--name", "lone", env={"HYB_RECEIPT_HOST": "os"})
    statement = json.loads(desk.hyb.ok("attest", "show", "lone", "--format", "intoto"))
    definition = statement["predicate"]["buildDefinition"]
    assert list(definition["internalParameters"]["host"]) == ["os"]
    assert [d["name"] for d in definition["resolvedDependencies"]] == ["held.jsonl"]
    assert desk.folder not in json.dumps(statement)


def test_a_dry_run_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert "would write" in desk.hyb.ok("report", desk.folder, "-o", str(out), "--dry-run")
    assert not out.exists()


def test_what_the_page_says_of_a_real_signature_is_true(desk: Desk, tmp_path: Path) -> None:
    need("openssl")
    need("jq")
    keys, out = tmp_path / "keys", tmp_path / "r.html"
    desk.hyb.ok("sign", "--new-key", str(keys))
    key = next(keys.glob("*.key"))
    desk.hyb.ok("sign", "r/base", "--key", str(key), "--receipts")
    desk.hyb.ok("report", desk.folder, "-o", str(out))
    text = out.read_text()
    assert text.count("openssl dgst") == 2, "of the artifact, and of its receipt"
    import html

    commands = [html.unescape(c) for c in re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)]
    for command in [c for c in commands if "openssl dgst" in c]:
        public = str(next(keys.glob("*.pub")))
        env = {**os.environ, "STORE": str(desk.hyb.store), "KEY": public}
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
        assert "Verified OK" in done.stdout, done.stderr
    assert "signed by the key whose PEM file is sha256:" in desk.hyb.ok("attest", "show", "r/base")


def test_the_sbom_inside_the_page_is_that_of_the_command(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    desk.hyb.ok("report", desk.folder, "-o", str(out))
    inside = [base64.b64decode(x).decode() for x in re.findall(r"base64,([^\"]+)", out.read_text())]
    assert inside[0] == desk.hyb.ok("sbom", desk.folder)
    again = tmp_path / "again.html"
    desk.hyb.ok("report", desk.folder, "-o", str(again))
    assert again.read_bytes() == out.read_bytes()


def test_a_broken_chain_ends_with_code_4_and_still_writes_its_page(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.lab.store.blob_path(desk.lab.store.resolve("r/service")).unlink()
    out = tmp_path / "r.html"
    done = desk.hyb("report", desk.folder, "-o", str(out))
    assert done.returncode == 4 and ">broken<" in out.read_text()
    assert "BROKEN" in desk.hyb("attest", "show", "r/van").stdout
    assert "of the chain broken" in desk.hyb.fails(4, "attest", "r/van")


def test_verify_tells_a_receipt_whose_parameters_were_edited(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert "all whole" in desk.hyb.ok("verify", desk.folder)
    store = Store(desk.hyb.store)
    facts = store.artifact(store.resolve("r/facts"))
    (old,) = [a for a in store.referrers(facts.digest) if a.kind == "receipt"]
    told = receipt.read(store, old)
    told["predicate"]["buildDefinition"]["externalParameters"]["holdout"] = 0.4
    with store.index() as entries:
        entries[:] = [e for e in entries if e["digest"] != old.digest]
    receipt.add(store, told, facts)
    assert "lineage of `r`" in desk.hyb.fails(4, "verify", desk.folder)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier_on_the_page(desk: Desk, tmp_path: Path, scheme: str) -> None:
    need("browser")
    need("axe")
    from playwright.sync_api import sync_playwright

    axe = oracle("axe")
    assert axe
    out = tmp_path / "r.html"
    desk.hyb.ok("report", desk.folder, "-o", str(out))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
        said: list[str] = []
        page.on("console", lambda m: said.append(m.text))
        page.goto(out.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate(axe.read_text())
        found = page.evaluate("""async () => (await axe.run(document, {resultTypes: ['violations']})).violations
            .map(v => `${v.id}: ${v.nodes.map(n => n.target.join(' ')).join(', ')}`)""")
        browser.close()
    assert (found, said) == ([], [])
