"""RFC 6455 by a client that writes its frames itself: what is right works, what is wrong gets its close code."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import pytest
import trio
from structlog.testing import capture_logs

from .conftest import StreamServer, open_stream_server
from .test_hostile_connections import MASK, _fresh_logs, everything, raw_client

__all__ = ["_fresh_logs"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PINGED = b'{"action":"ping","id":"\xc3\xa9\xe5\xb8\x81"}'


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK, size: int = 0
) -> bytes:
    """Return a client's frame; ``size`` 2 or 8: the length in so many bytes, though it may need fewer."""
    length = len(payload)
    if size == 8 or length > 65_535:
        head = b"\xff" + length.to_bytes(8, "big")
    elif size == 2 or length > 125:
        head = b"\xfe" + length.to_bytes(2, "big")
    else:
        head = bytes([0x80 | length])
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | rsv | opcode]) + head + mask + masked


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack(">H", code) + reason)


def cut(payload: bytes, *at: int) -> bytes:
    """Return a text message in fragments."""
    pieces = [payload[a:b] for a, b in zip((0, *at), (*at, len(payload)), strict=True)]
    last = len(pieces) - 1
    return b"".join(
        frame(CONTINUATION if place else TEXT, piece, fin=place == last) for place, piece in enumerate(pieces)
    )


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of whole frames of a server; they are neither masked nor fragmented."""
    found = []
    while data:
        assert data[0] & 0x70 == 0
        assert data[0] & 0x80
        length, head = data[1], 2
        assert length < 127, "a short answer"
        if length == 126:
            length, head = int.from_bytes(data[2:4], "big"), 4
        found.append((data[0] & 0x0F, data[head : head + length]))
        data = data[head + length :]
    return found


async def talk(server: StreamServer, sent: Sequence[bytes], *, until: bytes = b"") -> list[tuple[int, bytes]]:
    """Send bytes, and a close once ``until`` has come; return all frames until the server closes the connection."""
    async with raw_client(server.port) as stream:
        for part in sent:
            await stream.send_all(part)
        data = b""
        if until:
            with trio.fail_after(5):
                while until not in data:
                    data += await stream.receive_some()
            await stream.send_all(close(1000))
        return frames(data + await everything(stream))


def pong_of(found: list[tuple[int, bytes]]) -> str:
    """Return the id of the one answer to ``ping``."""
    (answer,) = [json.loads(payload) for opcode, payload in found if opcode == TEXT]
    assert answer["type"] == "pong", answer
    return str(answer["id"])


WHOLE = {
    "one frame": frame(TEXT, PINGED),
    "a mask of zeros": frame(TEXT, PINGED, mask=bytes(4)),
    "fragments": cut(PINGED, 3, 9),
    "a character cut by fragments": cut(
        PINGED, PINGED.index(b"\xa9"), PINGED.index(b"\xb8"), PINGED.index(b"\x81")
    ),
    "empty fragments": cut(PINGED, 0, 0, 5, 5, len(PINGED)),
    "each byte a fragment": cut(PINGED, *range(1, len(PINGED))),
    "a ping in a message": frame(TEXT, PINGED[:9], fin=False)
    + frame(PING, b"in")
    + frame(CONTINUATION, PINGED[9:]),
    "a pong in a message": frame(TEXT, PINGED[:9], fin=False)
    + frame(PONG, b"in")
    + frame(CONTINUATION, PINGED[9:]),
    "an unsolicited pong": frame(PONG, b"x" * 125) + frame(TEXT, PINGED),
}


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_a_message_arrives_however_it_is_framed(*, byte_by_byte: bool) -> None:
    async with open_stream_server() as server:

        async def tell(kind: str, sent: bytes) -> None:
            parts = [bytes([byte]) for byte in sent] if byte_by_byte else [sent]
            found = await talk(server, parts, until=b'"type":"pong"')
            assert pong_of(found) == "é币", kind
            pongs = [payload for opcode, payload in found if opcode == PONG]
            assert pongs == ([b"in"] if "a ping" in kind else []), kind
            assert found[-1] == (CLOSE, struct.pack(">H", 1000)), kind

        async with trio.open_nursery() as nursery:
            for kind, sent in WHOLE.items():
                nursery.start_soon(tell, kind, sent)


async def test_a_ping_comes_back_as_it_was() -> None:
    async with open_stream_server() as server:
        for payload in (b"", b"x" * 125, b"\xff\x00"):
            found = await talk(server, [frame(PING, payload) + close(1000)])
            assert found == [(PONG, payload), (CLOSE, struct.pack(">H", 1000))]


async def test_a_close_is_answered_with_its_code() -> None:
    async with open_stream_server() as server:
        for code in (1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999):
            after = frame(TEXT, PINGED)  # what comes behind a close is read by nobody
            ((opcode, payload),) = await talk(server, [close(code, "grüße".encode()) + after])
            assert (opcode, payload[:2]) == (CLOSE, struct.pack(">H", code))


async def test_a_close_without_a_code_is_answered() -> None:
    async with open_stream_server() as server:
        ((opcode, payload),) = await talk(server, [frame(CLOSE)])
        assert opcode == CLOSE
        assert payload in (b"", struct.pack(">H", 1000))


WRONG = {
    "first reserved bit": (frame(TEXT, b"{}", rsv=0x40), 1002),
    "second reserved bit": (frame(TEXT, b"{}", rsv=0x20), 1002),
    "third reserved bit": (frame(TEXT, b"{}", rsv=0x10), 1002),
    "reserved bit of a ping": (frame(PING, b"", rsv=0x40), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 7, 11, 15)},
    "no mask": (b"\x81\x02{}", 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a continuation of a whole message": (frame(TEXT, PINGED) + frame(CONTINUATION, b"x"), 1002),
    "a message in another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "a binary message in another": (frame(TEXT, b"{", fin=False) + frame(BINARY, b"}"), 1002),
    "a ping in fragments": (frame(PING, b"a", fin=False) + frame(CONTINUATION, b"b"), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a long close": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a length of 2 bytes for 5": (frame(TEXT, b"12345", size=2), 1002),
    "a length of 8 bytes for 5": (frame(TEXT, b"12345", size=8), 1002),
    "a length of 8 bytes with the top bit": (b"\x81\xff" + (1 << 63).to_bytes(8, "big") + MASK, 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "a close reason that is no text": (close(1000, b"\xff"), 1007),
    "no text": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character": (frame(TEXT, b"\xc3"), 1007),
    "half a character in the last fragment": (cut(b"ab\xc3", 2), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "beyond Unicode": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "an overlong slash": (frame(TEXT, b"\xc0\xaf"), 1007),
    "no text across fragments": (cut(b"\xc3\xc3", 1), 1007),
    "a message of 64 KiB and a byte": (frame(TEXT, b"x" * 65_537), 1009),
    "64 KiB and a byte in fragments": (cut(b"x" * 65_537, 40_000), 1009),
    "a length of 4 GB": (b"\x81\xff" + (1 << 32).to_bytes(8, "big") + MASK + b"x" * 70_000, 1009),
}


async def test_what_breaks_the_protocol_gets_its_close_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver.web.stream.endpoint.CLOSE_GRACE_S", 0.1)

    async def tell(server: StreamServer, kind: str, sent: bytes, code: int) -> None:
        found = await talk(server, [sent])
        assert found, kind
        assert found[-1][0] == CLOSE, (kind, found)
        assert int.from_bytes(found[-1][1][:2], "big") == code, (kind, found)
        found[-1][1][2:].decode()
        assert {opcode for opcode, _ in found[:-1]} <= {TEXT}, (kind, found)

    with capture_logs() as logs:
        async with open_stream_server() as server:
            async with trio.open_nursery() as nursery:
                for kind, (sent, code) in WRONG.items():
                    nursery.start_soon(tell, server, kind, sent, code)
            assert server.value("connections_dropped_total") == 0
    assert [log for log in logs if log["log_level"] == "error"] == []


async def test_a_message_of_64_kib_is_read() -> None:
    text = b'{"action":"ping","id":"' + b"x" * 65_511 + b'"}'
    assert len(text) == 65_536
    async with open_stream_server() as server, raw_client(server.port) as stream:
        await stream.send_all(cut(text, 30_000))
        data = b""
        with trio.fail_after(5):
            while not data.endswith(b"}"):
                data += await stream.receive_some()
    assert b'"type":"pong"' in data
