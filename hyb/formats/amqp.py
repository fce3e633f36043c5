"""The few bytes of AMQP 1.0 that tell which router is at the other end of a link. Pure: bytes in, values out.

A Skupper router names itself in its `open`: properties `product` and `version`. To read them one has to pass the SASL
layer (EXTERNAL: the client certificate is the login), send an `open`, read the peer's, and `close`. Nothing else is
spoken: no session, no link. What comes from the peer is bounded in size, number and depth before it is looked at.

Source: OASIS AMQP 1.0, parts 1 (types), 2 (transport: 2.2 version header, 2.3 frames, 2.7 open and close) and
5.3 (SASL): https://docs.oasis-open.org/amqp/core/v1.0/os/
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

AMQP, SASL = 0, 3
"""Protocol ids of a version header (2.2, 5.3.1)."""
MECHANISMS, INIT, OUTCOME = 0x40, 0x41, 0x44
"""Descriptors of SASL frames (5.3.3)."""
OPEN, CLOSE, ERROR = 0x10, 0x18, 0x1D
"""Descriptors of performatives (2.7) and of an error (2.8.14)."""
HEADER = 8  # bytes of a version header, and of a frame's head
FRAME_MAX = 64 << 10  # bytes; an `open` of a router has some hundreds
_DEPTH_MAX, _ITEMS_MAX = 16, 4096
_FIXED = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
"""High half of a constructor → bytes of the value (1.2.1)."""


class MalformedError(ValueError):
    """What the peer sent is no AMQP 1.0."""


@dataclass(frozen=True)
class Frame:
    """A frame's performative: its descriptor and fields. An empty frame (a heartbeat) has the descriptor -1."""

    code: int
    fields: Sequence[Any]

    def field(self, index: int) -> Any:
        """Field `index`, None when the peer left it out (trailing nulls may be, 1.4)."""
        return self.fields[index] if index < len(self.fields) else None


# -- writing -------------------------------------------------------------------------------------------------------


def header(protocol: int) -> bytes:
    """The version header of `protocol`, version 1.0.0."""
    return b"AMQP" + bytes((protocol, 1, 0, 0))


def sasl_init() -> bytes:
    """`sasl-init` with the mechanism EXTERNAL and an empty answer: who we are is in the client certificate."""
    return _frame(1, INIT, [_short(0xA3, b"EXTERNAL"), _short(0xA0, b"")])


def opened(container: str, hostname: str, idle_ms: int) -> bytes:
    """`open`; `container` names us (up to 255 bytes), `hostname` whom we mean, `idle_ms` when silence is an end."""
    channel_max = b"\x60" + struct.pack(">H", 0)
    return _frame(
        0,
        OPEN,
        [
            _short(0xA1, container.encode()[:255]),
            _short(0xA1, hostname.encode()[:255]),
            b"\x70" + struct.pack(">I", FRAME_MAX),
            channel_max,
            b"\x70" + struct.pack(">I", idle_ms),
        ],
    )


def closed() -> bytes:
    """`close` without an error."""
    return _frame(0, CLOSE, [])


def _short(constructor: int, data: bytes) -> bytes:
    return bytes((constructor, len(data))) + data


def _frame(kind: int, code: int, fields: Sequence[bytes]) -> bytes:
    body = b"".join(fields)
    listed = b"\xd0" + struct.pack(">II", len(body) + 4, len(fields)) + body if fields else b"\x45"
    whole = b"\x00\x53" + bytes((code,)) + listed
    return struct.pack(">IBBH", HEADER + len(whole), 2, kind, 0) + whole


# -- reading -------------------------------------------------------------------------------------------------------


def protocol_of(data: bytes) -> int:
    """The protocol id of a version header of 8 bytes. Raises MalformedError."""
    if len(data) != HEADER or data[:4] != b"AMQP" or data[5:] != b"\x01\x00\x00":
        raise MalformedError("no AMQP 1.0 version header")
    return data[4]


def frame_size(head: bytes) -> int:
    """How many bytes a frame has, its head of 8 bytes among them. Raises MalformedError for more than FRAME_MAX."""
    size: int = struct.unpack(">I", head[:4])[0]
    if not HEADER <= size <= FRAME_MAX:
        raise MalformedError(f"a frame of {size} bytes")
    return size


def parse_frame(data: bytes) -> Frame:
    """A whole frame. Raises MalformedError."""
    if len(data) < HEADER or frame_size(data) != len(data):
        raise MalformedError("a frame of another length than it says")
    start = data[4] * 4  # doff counts words of 4 bytes (2.3.1)
    if not HEADER <= start <= len(data):
        raise MalformedError("a frame whose body begins outside it")
    if start == len(data):
        return Frame(-1, ())
    code, value = _Reader(data, start).described()
    if not isinstance(value, list):
        raise MalformedError("a performative that is no list")
    return Frame(code, value)


class _Reader:
    """Values of part 1, one after the other. Symbols and strings become str, binaries bytes, described types their
    value; decimals and UUIDs stay bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.items = 0

    def described(self) -> tuple[int, Any]:
        """A described value (1.2.2) whose descriptor is a number."""
        if self._take(1) != b"\x00":
            raise MalformedError("a frame without a performative")
        code = self.value(1)
        if not isinstance(code, int) or isinstance(code, bool):
            raise MalformedError("a performative whose descriptor is no number")
        return code, self.value(1)

    def value(self, depth: int) -> Any:
        """The next value."""
        self.items += 1
        if depth > _DEPTH_MAX or self.items > _ITEMS_MAX:
            raise MalformedError("values in values without end")
        constructor = self._take(1)[0]
        if constructor == 0:
            self.value(depth + 1)
            return self.value(depth + 1)
        return self._of(constructor, depth)

    def _of(self, constructor: int, depth: int) -> Any:
        high = constructor >> 4
        if high in _FIXED:
            return _fixed(constructor, self._take(_FIXED[high]))
        wide = bool(high & 1)
        if high in (0xA, 0xB):
            data = self._take(self._number(wide))
            return data if constructor in (0xA0, 0xB0) else _text(data)
        if high in (0xC, 0xD):
            return self._compound(constructor, wide, depth)
        if high in (0xE, 0xF):
            return self._array(wide, depth)
        raise MalformedError(f"a value of the unknown kind 0x{constructor:02x}")

    def _compound(self, constructor: int, wide: bool, depth: int) -> Any:
        end = self._number(wide) + self.at
        values = [self.value(depth + 1) for _ in range(self._count(wide))]
        self._ends(end)
        if constructor in (0xC0, 0xD0):
            return values
        if constructor not in (0xC1, 0xD1) or len(values) % 2:
            raise MalformedError("a map with a key that has no value")
        return {k: v for k, v in zip(values[::2], values[1::2], strict=True) if isinstance(k, str)}

    def _array(self, wide: bool, depth: int) -> list[Any]:
        end = self._number(wide) + self.at
        count = self._count(wide)
        constructor = self._take(1)[0]
        if constructor == 0:
            self.value(depth + 1)
            constructor = self._take(1)[0]
        values = [self._of(constructor, depth + 1) for _ in range(count)]
        self._ends(end)
        return values

    def _number(self, wide: bool) -> int:
        return int.from_bytes(self._take(4 if wide else 1), "big")

    def _count(self, wide: bool) -> int:
        count = self._number(wide)
        self.items += count
        if self.items > _ITEMS_MAX:
            raise MalformedError("more values than a frame has room for")
        return count

    def _ends(self, end: int) -> None:
        if self.at != end:
            raise MalformedError("a compound of another length than it says")

    def _take(self, count: int) -> bytes:
        data = self.data[self.at : self.at + count]
        if len(data) != count:
            raise MalformedError("a frame that ends in the middle of a value")
        self.at += count
        return data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


_INTEGERS = {
    0x50: ">B", 0x60: ">H", 0x70: ">I", 0x80: ">Q", 0x51: ">b", 0x61: ">h", 0x71: ">i", 0x81: ">q",
    0x52: ">B", 0x53: ">B", 0x54: ">b", 0x55: ">b", 0x72: ">f", 0x82: ">d", 0x83: ">q",
}  # fmt: skip
_EMPTY: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}


def _fixed(constructor: int, data: bytes) -> Any:
    if constructor in _EMPTY:
        return [] if constructor == 0x45 else _EMPTY[constructor]
    if constructor in _INTEGERS:
        return struct.unpack(_INTEGERS[constructor], data)[0]
    if constructor == 0x56:
        return data == b"\x01"
    if constructor in (0x73, 0x74, 0x84, 0x94, 0x98):
        return data
    raise MalformedError(f"a value of the unknown kind 0x{constructor:02x}")
