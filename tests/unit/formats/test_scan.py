"""Secrets and personal data in texts: what is found, what only looks alike, and that it is never shown whole."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hyb.formats import check_digits, scan
from tests.need import need

FOUND = [
    ("email", "Write to jane.doe+x@mail.acme.org.", "j…@mail.acme.org"),
    ("card", "It was 4111 1111 1111 1111, I think.", "4111…"),
    ("card", "5555555555554444", "5555…"),
    ("card", "3782-822463-10005", "3782…"),
    ("iban", "DE89 3704 0044 0532 0130 00", "DE89…"),
    ("iban", "to GB82WEST12345698765432 please", "GB82…"),
    ("cpf", "CPF 529.982.247-25", "529…"),
    ("cpf", "cpf nº 52998224725", "52…"),
    ("cnpj", "11.222.333/0001-81", "11.2…"),
    ("cnpj", "CNPJ: 12ABC34501DE35", "12A…"),
    ("secret", "hf_abcdefghijklmnopqrstuvwxyzABCDEF12", "hf_a…"),
    ("secret", "the senha é abacaxi99 ok", "ab…"),
    ("secret", 'api_key = "q9w8e7r6t5"', "q9…"),
    (
        "secret",
        "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQ" * 6 + "\n-----END PRIVATE KEY-----",
        "----…",
    ),
]
NOTHING = [
    "4111 1111 1111 1112, 1234567890123456 and 0012345678901234",
    "DE89 3704 0044 0532 0130 01, XX89370400440532013000",
    "529.982.247-26, 111.111.111-11, and 52998224725 without its name",
    "11.222.333/0001-82",
    "someone@example.com, root@localhost, a@b.test, @handle, user@host",
    "The token is sentencepiece. The password: a secret of love. secret = ingredient",
    "-----BEGIN PRIVATE KEY----- is how a key begins",
    "ISBN 978-3-16-148410-0, 2024-01-31 12:30:00, 192.168.100.200, 3.141592653589793, 1,000,000,000,000",
    "",
]


@pytest.mark.parametrize(("kind", "text", "shown"), FOUND)
def test_it_is_found_and_shown_by_how_it_begins(kind: str, text: str, shown: str) -> None:
    (found,) = scan.text(text)
    assert (found.kind, found.shown) == (kind, shown)
    assert scan.text(text, allow=frozenset({kind})) == []


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_alike_is_nothing(text: str) -> None:
    assert scan.text(text, region="US") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("xoxb-123456789012-123456789012-abcdefABCDEF123456789012", "Slack Token"),
        ("postgres://bob:s3cr3tword@db.acme.org/x", "Basic Auth"),
        ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
         "JSON Web Token"),
        ('password: "correct-horse"', "Secret Keyword"),
    ],
)  # fmt: skip
def test_the_library_finds_more_kinds_of_keys(text: str, what: str) -> None:
    need("detect_secrets")
    found = scan.text(text)
    assert any(what in f.what for f in found), found


def test_every_keyword_that_the_library_knows_is_looked_for() -> None:
    need("detect_secrets")
    from detect_secrets.plugins.keyword import DENYLIST

    assert [word for word in DENYLIST if not scan._KEYWORD.search(word)] == []


@pytest.mark.parametrize("word", ["APERTADAMENTE", "APPARENTLYNOT", "AKCAREFULLYSAID"])
def test_a_word_in_capitals_is_no_key(word: str) -> None:
    need("detect_secrets")
    assert scan.text(f"It said {word} on the door.") == []


def test_a_phone_number_needs_its_plus_or_a_region() -> None:
    need("phonenumbers")
    text = "Ring +55 11 98765-4321 or (11) 98765-4321."
    assert [f.kind for f in scan.text(text)] == ["phone"]
    assert [f.kind for f in scan.text(text, region="BR")] == ["phone", "phone"]


@pytest.mark.parametrize(
    "text", ["+55 11 98765-4321", "\uff0b55 (11) 98765 4321", "+1-202-456-1111", "+49.30.227-0", "+44 20 7946 0958"]
)
def test_a_phone_number_is_found_however_it_is_written(text: str) -> None:
    need("phonenumbers")
    assert [f.kind for f in scan.text(f"Ring {text}, please.")] == ["phone"]
    assert [f.kind for f in scan.text("Ring 2024561111 x123 now", region="US")] == ["phone"]


def test_all_texts_of_a_row_are_read_and_its_own_id_and_file_are_not() -> None:
    email = "jane@acme.org"
    row: dict[str, Any] = {
        "id": "123412341234", "meta": {"source": "of-jane@acme.org.jsonl", "line": 1},
        "messages": [
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "x", "reasoning": "hm",
             "tool_calls": [{"function": {"name": "f", "arguments": {"to": [email]}}}]},
        ],
    }  # fmt: skip
    assert [f.kind for f in scan.row(row)] == ["email"]
    row["messages"][1]["tool_calls"] = []
    assert scan.row(row) == []


@pytest.mark.parametrize(("kind", "text", "shown"), FOUND)
def test_no_more_than_a_quarter_is_ever_shown(kind: str, text: str, shown: str) -> None:
    said = str(scan.text(text)[0])
    if kind != "email":  # whose domain is said
        assert not re.search(re.escape(shown.rstrip("…")) + r"[^…`]", said)
    assert "jane.doe" not in said


def test_hostile_texts_take_a_time_that_grows_with_their_length() -> None:
    for text in ("://a:" * 4000, "a@" * 10000, "1 " * 10000, "AB12 " * 4000, 'password: "' * 2000):
        scan.text(text)  # one of these took minutes when lines were not cut


@pytest.mark.parametrize(
    ("holds", "good"),
    [
        (check_digits.card, ["4111111111111111", "378282246310005", "6011111111111117", "3530111333300000"]),
        (check_digits.iban, ["NO9386011117947", "BR1500000000000010932840814P2", "MT84MALT011000012345MTLCAST001S"]),
        (check_digits.cpf, ["52998224725", "111.444.777-35"]),
        (check_digits.cnpj, ["11222333000181", "12.ABC.345/01DE-35"]),
    ],
)
def test_one_changed_digit_breaks_a_number_that_proves_itself(holds: Any, good: list[str]) -> None:
    for number in good:
        assert holds(number)
        for place, digit in enumerate(number):
            if digit.isdigit():
                changed = number[:place] + str((int(digit) + 1) % 10) + number[place + 1 :]
                assert not holds(changed), changed
