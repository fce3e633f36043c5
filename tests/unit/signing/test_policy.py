"""The trust policy: where it is found, how it is read, what it lets in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.progress import Progress, silent
from hyb.signing import attached, gate, keys, policy
from hyb.store import Store

TODAY = date(2026, 11, 28)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, keys.PrivateKey]:
    """Keys `a`, `b`, `c`; their public halves lie in tmp_path."""
    return {n: keys.load_private(keys.generate(tmp_path, n).private) for n in "abc"}


@pytest.fixture
def write(tmp_path: Path, pairs: dict[str, keys.PrivateKey]) -> Callable[[str], policy.Policy]:
    def written(text: str) -> policy.Policy:
        path = tmp_path / "trust.yaml"
        path.write_text("hyb-trust: 1\n" + text)
        return policy.read(path, TODAY)

    return written


def add(store: Store, name: str = "", kind: str = "model", **more: object) -> Artifact:
    file = modelpack.file("model.gguf", store.add_bytes(f"{kind} {name}".encode()))
    made = store.add_artifact(kind, [file], **more)  # type: ignore[arg-type]
    if name:
        store.tag(name, made.digest)
    return made


def refused(found: policy.Policy, store: Store, artifact: Artifact, *names: str) -> HybError:
    with pytest.raises(HybError) as caught:
        policy.check(found, store, artifact, "serve", names=names)
    assert caught.value.code is Exit.CHECK
    return caught.value


KEYS = "keys: {a: {file: a.pub}, b: {file: b.pub}}\n"
ENFORCED = KEYS + "rules: [{pattern: 'r/*', keys: [a], mode: enforce}]\ndefault: off\n"


def test_what_a_rule_names_needs_a_signature_by_one_of_its_keys(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found, artifact = write(ENFORCED), add(store, "r/bot")
    error = refused(found, store, artifact)
    assert "pattern `r/*` wants a signature by a (" in error.message
    assert keys.short_id(pairs["a"].public.key_id) in error.message
    assert error.details == ("model `r/bot`: it has no signature",)
    assert "hyb sign r/bot --key FILE" in error.hint
    attached.sign(store, artifact, "r/bot", pairs["b"], silent)
    assert "key `b`" in str(refused(found, store, artifact).details)
    assert "not a key of this rule" in str(refused(found, store, artifact).details)
    attached.sign(store, artifact, "r/bot", pairs["a"], silent)
    (verdict,) = policy.check(found, store, artifact, "serve")
    assert verdict.key_id == pairs["a"].public.key_id
    policy.check(found, store, add(store, "else/bot"), "serve")  # the default


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("{file: a.pub, expires: 2026-11-28}", "expired on 2026-11-28"),
        ("{file: a.pub, revoked: true}", "revoked"),
        ("{file: a.pub, expires: 2026-11-29}", ""),
        ("{file: a.pub, revoked: false}", ""),
    ],
)
def test_a_key_that_is_expired_or_revoked_signs_nothing(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy], key: str, why: str
) -> None:
    found = write(f"keys: {{a: {key}}}\nrules: [{{pattern: '*', keys: [a], mode: enforce}}]\ndefault: off\n")
    artifact = add(store, "bot")
    attached.sign(store, artifact, "bot", pairs["a"], silent)
    if not why:
        policy.check(found, store, artifact, "serve")
        return
    error = refused(found, store, artifact)
    assert f"key `a` ({keys.short_id(pairs['a'].public.key_id)}) signed it, and is {why}" in str(error.details)


def test_a_key_revoked_under_one_name_is_not_trusted_under_another(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found = write(
        "keys: {good: {file: a.pub}, stolen: {file: a.pub, revoked: true}}\n"
        "rules: [{pattern: '*', keys: [good], mode: enforce}]\ndefault: off\n"
    )
    artifact = add(store, "bot")
    attached.sign(store, artifact, "bot", pairs["a"], silent)
    refused(found, store, artifact)


def test_two_keys_are_trusted_while_one_follows_the_other(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found = write(KEYS + "rules: [{pattern: '*', keys: [a, b], mode: enforce}]\ndefault: off\n")
    for name in "ab":
        artifact = add(store, f"bot-{name}")
        attached.sign(store, artifact, "bot", pairs[name], silent)
        policy.check(found, store, artifact, "serve")


def test_a_warning_is_said_and_nothing_is_refused(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found = write(KEYS + "rules: [{pattern: '*', keys: [a], mode: warn}]\ndefault: off\n")
    said: list[str | Progress] = []
    policy.check(found, store, add(store, "bot"), "serve", say=said.append)
    assert len(said) == 1
    assert "it has no signature" in str(said[0])


def test_a_second_name_never_makes_less_be_asked_for(store: Store, write: Callable[[str], policy.Policy]) -> None:
    found = write(
        KEYS + "rules: [{pattern: 'scratch/*', keys: [], mode: off}, {pattern: 'r/*', keys: [a], mode: enforce}]\n"
        "default: off\n"
    )
    artifact = add(store, "r/bot")
    store.tag("scratch/bot", artifact.digest)
    refused(found, store, artifact)


def test_the_source_that_a_model_came_from_is_one_of_its_names(
    store: Store, write: Callable[[str], policy.Policy]
) -> None:
    found = write(KEYS + "rules: [{pattern: 'hf://acme/*', keys: [a], mode: enforce}]\ndefault: off\n")
    refused(found, store, add(store, "bot", meta={"source": "hf://acme/tiny@" + "1" * 40}))
    refused(found, store, add(store), "hf://acme/other")


def test_the_first_rule_that_fits_a_name_decides(store: Store, write: Callable[[str], policy.Policy]) -> None:
    found = write(
        KEYS + "rules: [{pattern: 'r/free', mode: off}, {pattern: 'r/*', keys: [a], mode: enforce}]\ndefault: off\n"
    )
    policy.check(found, store, add(store, "r/free"), "serve")
    refused(found, store, add(store, "r/other"))


def test_a_default_of_enforce_lets_in_only_what_a_rule_lets_in(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found = write(KEYS + "rules: [{pattern: 'r/*', keys: [a], mode: enforce}]\ndefault: enforce\n")
    stranger = add(store, "x/bot")
    attached.sign(store, stranger, "x", pairs["a"], silent)
    assert "no rule of the trust policy names it" in refused(found, store, stranger).message
    assert refused(found, store, add(store))  # without any name


def test_what_an_artifact_needs_is_judged_too(
    store: Store, pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    found, base = write(ENFORCED), add(store, "r/base")
    adapter = add(store, "r/lora", "adapter", needs=[base.digest])
    attached.sign(store, adapter, "r/lora", pairs["a"], silent)
    error = refused(found, store, adapter)
    assert error.details == ("model `r/base`: it has no signature",)


def test_all_mistakes_are_told_with_their_lines(write: Callable[[str], policy.Policy], tmp_path: Path) -> None:
    with pytest.raises(HybError) as caught:
        write(
            "keys:\n  a: {file: a.pub, expiry: 2027-01-01}\n  b: {file: b.pub, expires: soon}\n"
            "  gone: {file: gone.pub}\n  c: {}\n  d: {file: a.key}\nrules:\n"
            "  - {pattern: '*', keys: [z], mode: enforced}\n"
            "  - {keys: [a], mode: warn}\n  - {pattern: x, keys: [], mode: enforce}\n"
        )
    where = tmp_path / "trust.yaml"
    assert [line.split(": ")[0] for line in caught.value.details] == [
        f"{where}:{n}" for n in (1, 3, 4, 5, 6, 7, 9, 9, 10, 11)
    ]
    text = "\n".join(caught.value.details)
    assert "unknown key `expiry` (did you mean `expires`?)" in text
    assert "`default` says what holds" in text
    assert "is a private key" in text
    assert "there is no key `z`" in text


@pytest.mark.parametrize("text", ["", "[]", "7", "a: &x 1\nb: *x", "hyb-trust: 2\ndefault: off", "x: ["])
def test_a_policy_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(HybError, match=r"t\.yaml"):
        policy.read(path)


@pytest.mark.parametrize("victim", ["trust.yaml", "a.pub"])
def test_a_policy_or_key_that_others_can_write_is_refused(
    write: Callable[[str], policy.Policy], tmp_path: Path, victim: str
) -> None:
    write(ENFORCED)
    (tmp_path / victim).chmod(0o666)
    with pytest.raises(HybError, match="other users can write"):
        policy.read(tmp_path / "trust.yaml")


def test_a_key_can_stand_in_the_policy_itself(
    pairs: dict[str, keys.PrivateKey], write: Callable[[str], policy.Policy]
) -> None:
    pem = pairs["a"].public.pem.decode().replace("\n", "\n      ")
    found = write(f"keys:\n  a:\n    pem: |\n      {pem}\nrules: []\ndefault: off\n")
    assert found.keys["a"].key_id == pairs["a"].public.key_id


def test_the_policy_is_found_where_it_was_named_or_at_home_and_never_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "SYSTEM", tmp_path / "etc" / "trust.yaml")
    here, home = tmp_path / "here", tmp_path / "home"
    for place in (here, here / "hyb", home / ".config" / "hyb", tmp_path / "etc"):
        place.mkdir(parents=True)
        (place / "trust.yaml").touch()
    monkeypatch.chdir(here)
    assert gate.find({}) == tmp_path / "etc" / "trust.yaml"
    assert gate.find({"HOME": str(home)}) == home / ".config/hyb/trust.yaml"
    assert gate.find({"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "etc" / "trust.yaml"
    assert gate.find({"HOME": str(home), "HYB_TRUST": "trust.yaml"}) == Path("trust.yaml")
    with pytest.raises(HybError, match="is not there"):
        gate.find({"HOME": str(home), "HYB_TRUST": str(tmp_path / "absent.yaml")})


def test_without_a_policy_nothing_is_asked_for_and_nobody_is_trusted(
    store: Store, pairs: dict[str, keys.PrivateKey], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "SYSTEM", tmp_path / "absent")
    artifact = add(store, "bot")
    gate.check(store, artifact, "serve", {}, say=silent)
    attached.sign(store, artifact, "bot", pairs["a"], silent)
    assert policy.signed(store, artifact, {}) == ""
