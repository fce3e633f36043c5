"""Secrets and personal data in a data set's texts. Pure.

A model repeats what it was trained on, so what must not be said must not be trained. Keys with a prefix and private
keys are found by `hyb.formats.leaked_keys`, more kinds of them by detect-secrets, phone numbers by phonenumbers, where
these are installed; e-mail addresses, and numbers that prove themselves by check digits, here. Names and addresses of
people are not found.

A finding never shows what was found, only how it begins.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hyb.formats import check_digits, leaked_keys

KINDS = ("secret", "email", "phone", "card", "iban", "cpf", "cnpj")
LIBRARIES = {"secret": "detect_secrets", "phone": "phonenumbers"}
"""Kind → the module that finds more of it."""

_PLUGINS = {
    "artifactory": "ArtifactoryDetector", "aws": "AWSKeyDetector", "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector", "cloudant": "CloudantDetector", "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector", "gitlab_token": "GitLabTokenDetector",
    "ibm_cloud_iam": "IbmCloudIamDetector", "ibm_cos_hmac": "IbmCosHmacDetector",
    "jwt": "JwtTokenDetector", "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector", "openai": "OpenAIDetector", "pypi_token": "PypiTokenDetector", "sendgrid": "SendGridDetector",
    "slack": "SlackDetector", "softlayer": "SoftlayerDetector", "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector", "telegram_token": "TelegramBotTokenDetector", "twilio": "TwilioKeyDetector",
    "keyword": "KeywordDetector",
}  # fmt: skip
"""detect-secrets' detectors that go by shape. Left out: those by entropy and of addresses, which cry wolf in prose, and
that of private keys, which takes the first line of a key for one."""
_ANY = {"basic_auth", "keyword"}  # the others' findings have a digit, or are words in capitals

_PIECE, _OVERLAP = 4096, 512  # characters; no secret of theirs is longer than the overlap but a JWT
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_NOBODY = re.compile(r"@(?:.*\.)?(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$", re.IGNORECASE)
_SETTING = re.compile(
    r"\b(?:api[_-]?key|access[_-]?token|auth[_-]?token|token|password|passwd|passphrase|secret|senha)\b"
    r"[\"'`]?[ \t]{0,3}(?:[:=]|\bis\b|\bé\b)[ \t]{0,3}[\"'`]?(?P<value>[^\s\"'`,;]{8,200})",
    re.IGNORECASE,
)
_KEYWORD = re.compile("key|pass|pwd|secret|contrase", re.IGNORECASE)
"""What stands in every word that the detector of keywords knows: it takes longer than all others together."""
_PLUS = re.compile("[+\uff0b]")
_PHONE = re.compile(r"\d(?:(?:\W|x){0,4}\d){4}", re.IGNORECASE)
"""What every phone number has: to ask the library of a text without it would cost more than all the rest."""
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b")
_CPF = re.compile(
    r"(?<![\w.-])(?P<cpf>\d{3}\.\d{3}\.\d{3}-\d\d)(?!\w)|\bCPF\W{0,3}(?:n\S{0,2}\W{0,3})?(?P<plain>\d{11})(?!\w)",
    re.IGNORECASE,
)
_CNPJ = re.compile(
    r"(?<![\w.-])(?P<cnpj>[0-9A-Z]{2}\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-\d\d)(?!\w)"
    r"|\bCNPJ\W{0,3}(?:n\S{0,2}\W{0,3})?(?P<plain>[0-9A-Z]{12}\d\d)(?!\w)",
    re.IGNORECASE,
)
_CHECKED: tuple[tuple[str, str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("iban", "an IBAN", _IBAN, check_digits.iban),
    ("cnpj", "a CNPJ", _CNPJ, check_digits.cnpj),
    ("cpf", "a CPF", _CPF, check_digits.cpf),
    ("card", "a bank card's number", _CARD, check_digits.card),
)
"""Kind, words, where to look (the number is the named group, or all of it), and whether its check digits hold."""


@dataclass(frozen=True)
class Finding:
    """What was found: its kind (one of `KINDS`), what it is in words, and how it begins."""

    kind: str
    what: str
    shown: str

    def __str__(self) -> str:
        return f"{self.what}, `{self.shown}`"


@dataclass(frozen=True)
class _Hit:
    start: int
    end: int
    finding: Finding


def missing(allow: frozenset[str] = frozenset()) -> list[str]:
    """The modules that are not installed and would find more of what is not allowed."""
    return [m for kind, m in LIBRARIES.items() if kind not in allow and not importlib.util.find_spec(m)]


def row(value: Mapping[str, Any], *, region: str = "", allow: frozenset[str] = frozenset()) -> list[Finding]:
    """What is in a row of a data set's file; what is shown alike, once. See `text`."""
    found: dict[Finding, None] = {}
    for part in _texts({k: v for k, v in value.items() if k not in ("id", "meta")}):
        found |= dict.fromkeys(text(part, region=region, allow=allow))
    return list(found)


def text(value: str, *, region: str = "", allow: frozenset[str] = frozenset()) -> list[Finding]:
    """What is in a text, in its order. `region`: the country (`BR`) whose phone numbers may stand without their `+`.
    `allow`: kinds that are let through."""
    taken: list[_Hit] = []
    for hit in _hits(value, region):
        if not any(hit.start < t.end and t.start < hit.end for t in taken):
            taken.append(hit)
    return [hit.finding for hit in sorted(taken, key=lambda h: h.start) if hit.finding.kind not in allow]


def _hits(value: str, region: str) -> Iterator[_Hit]:
    """Everything, the surest first: of what overlaps, the first counts."""
    yield from _keys(value)
    if "@" in value:
        for found in _EMAIL.finditer(value):
            if not _NOBODY.search(found[0]):
                name, _, domain = found[0].partition("@")
                yield _Hit(*found.span(), Finding("email", "an e-mail address", f"{name[0]}…@{domain}"))
    if not any(c in "0123456789" for c in value):
        return
    for kind, what, pattern, holds in _CHECKED:
        for found in pattern.finditer(value):
            group = found.lastgroup or 0
            if holds(found[group]):
                yield _hit(found.start(group), found[group], kind, what)
    if (region or _PLUS.search(value)) and _PHONE.search(value) and (phones := _library("phonenumbers")):
        for number in phones.PhoneNumberMatcher(value, region or None):
            yield _hit(number.start, number.raw_string, "phone", "a phone number")


def _keys(value: str) -> Iterator[_Hit]:
    data = value.encode(errors="replace")
    for key in leaked_keys.find(data):
        start = len(data[: key.at].decode(errors="replace"))
        yield _hit(start, key.value.decode(errors="replace"), "secret", key.what)
    for start, piece in _pieces(value):
        for name, detector in _detectors():
            if name == "keyword" and not _KEYWORD.search(piece):
                continue
            for secret in detector.analyze_string(piece):
                if (name in _ANY or re.search(r"\d", secret)) and (at := piece.find(secret)) >= 0:
                    yield _hit(start + at, secret, "secret", f"a secret ({detector.secret_type})")
    for found in _SETTING.finditer(value):
        secret = found["value"].rstrip(".!?)")
        if re.search(r"\d", secret) and re.search(r"[A-Za-z]", secret) and len(secret) >= 8:
            yield _hit(found.start("value"), secret, "secret", "a secret (a setting's value)")


def _pieces(value: str) -> Iterator[tuple[int, str]]:
    """The lines of a text, long ones in overlapping pieces: some detectors take the square of a line's length."""
    for line in re.finditer(r"[^\n]+", value):
        for at in range(0, max(len(line[0]) - _OVERLAP, 1), _PIECE - _OVERLAP):
            yield line.start() + at, line[0][at : at + _PIECE]


def _hit(start: int, found: str, kind: str, what: str) -> _Hit:
    plain = found.strip()
    shown = "".join(c if c.isprintable() else "?" for c in plain[: min(4, len(plain) // 4)]) + "…"
    return _Hit(start, start + len(found), Finding(kind, what, shown))


@cache
def _detectors() -> list[tuple[str, Any]]:
    if not _library("detect_secrets"):
        return []
    found = ((n, importlib.import_module(f"detect_secrets.plugins.{n}")) for n in _PLUGINS)
    return [(name, getattr(module, _PLUGINS[name])()) for name, module in found]


@cache
def _library(name: str) -> Any:
    """The module; None where it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner if key != "role" else None)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
