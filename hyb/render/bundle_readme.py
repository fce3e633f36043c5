"""README.txt of a bundle: how to check and unpack it with sha256sum, tar and openssl alone (age where it is sealed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote

from hyb.formats.bundle import FILE, SIGNATURE, SUMS, SUMS_SIGNATURE, Bundle, Planned


def text(bundle: Bundle, plan: Sequence[Planned], *, signed: str = "") -> bytes:
    """The file. `signed`: the kind of the key that signed it (`p256`, `ed25519`, …), or ""."""
    programs = "sha256sum, tar, age and openssl" if bundle.sealed else "sha256sum, tar and openssl"
    where = "the folder of the earlier bundle" if bundle.assumes else "any folder with room"
    lines = [
        f"Bundle `{bundle.name}`, {len(bundle.parts)} part{'' if len(bundle.parts) == 1 else 's'}, made by hyb.",
        "",
        "With hyb:           hyb bundle verify DIR  and  hyb bundle load DIR",
        f"Without hyb, in this folder, with {programs}. What is unpacked goes into {where}:",
        "",
        f"    into=$HOME/{bundle.name}",
        "",
        *_signature(signed),
        "2. The files. Each part is checked alone: whatever is not OK is copied again, and nothing else.",
        "",
        f"    sha256sum -c {SUMS}",
        "",
        "3. Unpack the parts into one folder, whatever their order" + (
            "; KEY is the private key that they are sealed to:" if bundle.sealed else ":"),
        "",
        '    mkdir -p "$into"',
        *(_unpack(p.name, sealed=bundle.sealed) for p in bundle.parts),
        "",
        *_joined(plan),
        *_copied(bundle, plan),
        *_base(bundle),
        "It is an OCI image layout now (skopeo and Podman read it: `skopeo copy oci:$into:NAME …`), with `wheels`,",
        "`recipe`, `docs` and `keys` as plain files beside it.",
        "",
        *_wheels(bundle, signed=bool(signed)),
        f"{FILE} says what everything is{f', and {SIGNATURE} is a signature over it (DSSE)' if signed else ''}.",
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _signature(signed: str) -> list[str]:
    if not signed:
        return ["1. This bundle is not signed: the sums tell damage, not who made it.", ""]
    if signed == "ed25519":
        check = f"openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in {SUMS} -sigfile {SUMS_SIGNATURE}"
    else:
        bits = {"p384": "384", "p521": "512"}.get(signed, "256")
        check = f"openssl dgst -sha{bits} -verify KEY.pub -signature {SUMS_SIGNATURE} {SUMS}"
    return ["1. The signature. KEY.pub came to you another way than this medium:", "", f"    {check}", ""]


def _unpack(name: str, *, sealed: bool) -> str:
    return f'    age -d -i KEY {name} | tar -xf - -C "$into"' if sealed else f'    tar -xf {name} -C "$into"'


def _joined(plan: Sequence[Planned]) -> list[str]:
    """The commands that join what was split."""
    pieces: dict[str, list[str]] = {}
    for part in plan:
        for item, _, _, path in part.entries:
            if path != item.path:
                pieces.setdefault(item.path, []).append(path)
    if not pieces:
        return []
    lines = ["Join what is larger than a part:", ""]
    for path, found in pieces.items():
        names = " ".join(map(quote, found))
        lines.append(f'    (cd "$into" && cat {names} > {quote(path)} && rm {names})')
    return [*lines, ""]


def _copied(bundle: Bundle, plan: Sequence[Planned]) -> list[str]:
    """Plain files whose bytes lie in the bundle once, under another name."""
    where: Mapping[str, str] = {item.digest: item.path for part in plan for item, _, _, _ in part.entries}
    twice = [(p, where[d]) for p, d in bundle.files.items() if d in where and where[d] != p]
    if not twice:
        return []
    made = [f'    (cd "$into" && mkdir -p {quote(p.rpartition("/")[0])} && cp {quote(w)} {quote(p)})' for p, w in twice]
    return ["Copy what is in it once and wanted twice:", "", *made, ""]


def _base(bundle: Bundle) -> list[str]:
    if not bundle.assumes:
        return []
    return [
        f"This bundle holds only what is new; {len(bundle.assumes)} more blobs must be there from an earlier one.",
        "",
    ]


def _wheels(bundle: Bundle, *, signed: bool) -> list[str]:
    if not any(p.startswith("wheels/") for p in bundle.files):
        return []
    options = (" --key KEY.pub" if signed else "") + (" --identity KEY" if bundle.sealed else "")
    return [
        f"4. hyb itself, for Python {bundle.python} on {', '.join(bundle.platforms)}:",
        "",
        '    python3 -m venv "$into/venv"',
        '    "$into/venv/bin/pip" install --no-index --find-links "$into/wheels" --require-hashes \\',
        '        -r "$into/wheels/requirements.txt"',
        f'    "$into/venv/bin/hyb" bundle load . --out "$into/loaded"{options}',
        '    "$into/venv/bin/hyb" run "$into/loaded/recipe" --offline --locked',
        "",
    ]
