"""The few bytes of AMQP 1.0: written as the specification says, read within bounds."""

from __future__ import annotations

import random
import struct

import pytest

from hyb.formats import amqp


def frame(body: bytes, kind: int = 0, doff: int = 2) -> bytes:
    return struct.pack(">IBBH", 8 + len(body), doff, kind, 0) + body


def test_the_version_headers_are_those_of_the_specification() -> None:
    assert amqp.header(amqp.SASL) == b"AMQP\x03\x01\x00\x00"
    assert amqp.protocol_of(amqp.header(amqp.AMQP)) == amqp.AMQP


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1", b"AMQP\x00\x00\x09\x01", b"AMQP\x00\x01\x00"])
def test_another_header_is_refused(data: bytes) -> None:
    with pytest.raises(amqp.MalformedError):
        amqp.protocol_of(data)


def test_what_is_written_is_what_is_read() -> None:
    init = amqp.parse_frame(amqp.sasl_init())
    assert (init.code, list(init.fields)) == (amqp.INIT, ["EXTERNAL", b""])
    opened = amqp.parse_frame(amqp.opened("hyb", "router.example.com", 60_000))
    assert opened.code == amqp.OPEN
    assert list(opened.fields) == ["hyb", "router.example.com", amqp.FRAME_MAX, 0, 60_000]
    assert amqp.parse_frame(amqp.closed()) == amqp.Frame(amqp.CLOSE, [])
    assert opened.field(9) is None, "trailing fields may be left out"


def test_an_open_as_a_router_sends_it_gives_its_properties() -> None:
    properties = (
        b"\xa3\x07product\xa1\x0eskupper-router\xa3\x07version\xa1\x053.5.1\xa3\x0aqd.conn-id\x71\x00\x00\x00\x07"
    )
    the_map = b"\xd1" + struct.pack(">II", len(properties) + 4, 6) + properties
    capabilities = b"\xe0\x0a\x02\xa3\x03abc\x03def"
    fields = b"\xa1\x01r" + b"\x40" * 6 + capabilities + b"\x40" + the_map
    body = b"\x00\x80" + struct.pack(">Q", 0x10) + b"\xd0" + struct.pack(">II", len(fields) + 4, 10) + fields
    found = amqp.parse_frame(frame(body))
    assert found.field(9) == {"product": "skupper-router", "version": "3.5.1", "qd.conn-id": 7}
    assert found.field(7) == ["abc", "def"]


def test_an_extended_header_is_skipped_and_a_heartbeat_is_empty() -> None:
    assert amqp.parse_frame(frame(b"\x00" * 4 + b"\x00\x53\x18\x45", doff=3)).code == amqp.CLOSE
    assert amqp.parse_frame(frame(b"")).code == -1


@pytest.mark.parametrize(
    "data",
    [
        frame(b"\x00\x53\x10"),  # no list
        frame(b"\x00\x53\x10\xa1\x01x"),  # a performative that is a string
        frame(b"\x00\xa3\x01x\x45"),  # a symbolic descriptor
        frame(b"\x53\x10\x45"),  # not described
        frame(b"\x00\x53\x10\xc0\x05\x01\x45"),  # a list longer than the frame
        frame(b"\x00\x53\x10\xd0\x00\x00\x00\x04\xff\xff\xff\xff"),  # four thousand million fields
        frame(b"\x00\x53\x10\xc0\x03\x01\xc1\x02"),  # a map that ends early
        frame(b"\x00\x53\x10\xc0\x05\x01\xc1\x02\x01\x40"),  # a key without a value
        frame(b"\x00\x53\x10\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40"),  # an array of nothing, without end
        frame(b"\x00\x53\x10" + b"\x00" * 200),  # descriptors of descriptors
        frame(b"\x00\x53\x10\x57\x00"),  # an unknown kind
        frame(b"", doff=1),
        frame(b"", doff=200),
        struct.pack(">IBBH", 8, 2, 0, 0) + b"\x45",  # longer than it says
        b"",
    ],
)
def test_what_is_damaged_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(amqp.MalformedError):
        amqp.parse_frame(data)


@pytest.mark.parametrize("size", [0, 7, amqp.FRAME_MAX + 1, 0xFFFFFFFF])
def test_a_frame_that_nobody_sends_us_is_refused_before_it_is_read(size: int) -> None:
    with pytest.raises(amqp.MalformedError):
        amqp.frame_size(struct.pack(">IBBH", size, 2, 0, 0))


def test_random_bytes_never_do_anything_but_parse_or_be_refused() -> None:
    dice = random.Random(7)
    whole = amqp.opened("hyb", "router.example.com", 1)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(8, len(damaged))] = dice.randrange(256)
        try:
            amqp.parse_frame(bytes(damaged))
        except amqp.MalformedError:
            continue
