"""Numbers that prove themselves: bank cards, IBAN, Brazil's CPF and CNPJ. Pure.

Each function takes a candidate with its separators and says whether its check digits hold; so a number of the same
length that only looks alike is, as a rule, none.
"""

from __future__ import annotations

import re

_CARDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|(?:5067|6363|6062|3841)\d{12}"
)
"""Visa, Mastercard, American Express, Diners, Discover, JCB, Elo, Hipercard, each with its lengths."""
_IBAN = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23,
    "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24,
    "TR": 26, "UA": 29, "VA": 22, "XK": 20,
}  # fmt: skip
"""Country → length of its IBAN (SWIFT's registry)."""


def luhn(number: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the sum a multiple of ten."""
    total = 0
    for place, digit in enumerate(reversed(_digits(number))):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def card(number: str) -> bool:
    """A bank card's number of a known issuer."""
    return bool(_CARDS.fullmatch(_digits(number))) and luhn(number)


def iban(text: str) -> bool:
    """ISO 13616: the country's length, and the rest by 97 is 1."""
    plain = re.sub(r"\s", "", text).upper()
    if len(plain) != _IBAN.get(plain[:2], 0):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def cpf(number: str) -> bool:
    """Brazil's number of a person: 11 digits, the last two of them checks."""
    plain = _digits(number)
    return len(plain) == 11 and len(set(plain)) > 1 and all(_brazil(plain[:n], n + 1) == plain[n] for n in (9, 10))


def cnpj(text: str) -> bool:
    """Brazil's number of a company: 12 digits or, since 2026, letters, and two check digits."""
    plain = re.sub(r"[.\-/\s]", "", text).upper()
    if not re.fullmatch(r"[0-9A-Z]{12}\d\d", plain) or len(set(plain)) == 1:
        return False
    return all(_brazil(plain[:n], 9) == plain[n] for n in (12, 13))


def _brazil(plain: str, highest: int) -> str:
    """The check digit by 11: weights rise from 2 at the right, and begin anew after `highest`."""
    weights = (2 + place % (highest - 1) for place in range(len(plain)))
    rest = sum((ord(c) - 48) * weight for c, weight in zip(reversed(plain), weights, strict=True)) % 11
    return "0" if rest < 2 else str(11 - rest)


def _digits(text: str) -> str:
    return "".join(c for c in text if c in "0123456789")
