"""The frame parser: any cut of the same bytes gives the same messages, and faults are named."""

import pytest
import wsproto.frame_protocol as wf
from hypothesis import given
from hypothesis import strategies as st

from mdserver.net.frame_reader import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Close,
    FrameReader,
    encode_close,
    encode_frame,
)

LIMIT = 100_000


def server_frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes([length])
    elif length < 65536:
        head = b"\x7e" + length.to_bytes(2, "big")
    else:
        head = b"\x7f" + length.to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | rsv | opcode]) + head + payload


texts = st.text(max_size=300).map(str.encode) | st.integers(120, 70_000).map(lambda n: b"x" * n)


@st.composite
def message(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A text message in one or more fragments, with pings between them."""
    payload = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    wire = b""
    for number, piece in enumerate(pieces):
        if draw(st.booleans()):
            wire += server_frame(PING, draw(st.binary(max_size=125)))
        wire += server_frame(TEXT if number == 0 else 0, piece, fin=number == len(pieces) - 1)
    return payload, wire


@given(st.lists(message(), max_size=6), st.data())
def test_any_chunking_gives_the_same_messages(
    messages: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(frame for _, frame in messages)
    reader = FrameReader(max_message_bytes=LIMIT)
    got = []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        got += reader.feed(wire[:size])
        wire = wire[size:]
    assert got == [payload for payload, _ in messages]
    assert reader.failure is None


@given(st.binary(max_size=200))
def test_any_bytes_give_the_same_outcome_at_once_or_one_by_one(wire: bytes) -> None:
    whole, single = FrameReader(max_message_bytes=1000), FrameReader(max_message_bytes=1000)
    messages = whole.feed(wire)
    assert [m for byte in wire for m in single.feed(bytes([byte]))] == messages
    assert (single.failure, single.close, single.ping) == (whole.failure, whole.close, whole.ping)


@pytest.mark.parametrize(
    ("wire", "code", "text"),
    [
        (b"\x81\x81abcdx", 1002, "masked"),
        (b"\x81\xfe\x00\x80abcd", 1002, "masked"),
        (server_frame(TEXT, b"x", rsv=0x40), 1002, "reserved"),
        (server_frame(3, b""), 1002, "opcode 0x3"),
        (server_frame(0xB, b""), 1002, "opcode 0xb"),
        (server_frame(PING, b"x" * 126), 1002, "control"),
        (server_frame(PING, b"", fin=False), 1002, "control"),
        (server_frame(0, b"x"), 1002, "continuation"),
        (server_frame(TEXT, b"x", fin=False) + server_frame(TEXT, b"y"), 1002, "inside another"),
        (b"\x81\x7e\x00\x05hello", 1002, "length 5"),
        (b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1002, "length"),
        (server_frame(TEXT, b"\xff"), 1007, "UTF-8"),
        (server_frame(TEXT, b"\xc3", fin=False) + server_frame(0, b"\xc3"), 1007, "UTF-8"),
        (server_frame(CLOSE, b"\x03"), 1002, "half a code"),
        (server_frame(CLOSE, b"\x03\xe8\xff"), 1007, "UTF-8"),
        (b"\x81\x7f" + (LIMIT + 1).to_bytes(8, "big"), 1009, "at most"),
        (server_frame(TEXT, b"x" * 60_000, fin=False) + server_frame(0, b"x" * 60_000), 1009, "more than"),
    ],
)
def test_faults_are_named_and_what_came_before_survives(wire: bytes, code: int, text: str) -> None:
    reader = FrameReader(max_message_bytes=LIMIT)
    assert reader.feed(server_frame(TEXT, b"before") + wire) == [b"before"]
    assert reader.failure is not None
    assert reader.failure.code == code
    assert text in reader.failure.reason
    assert reader.feed(server_frame(TEXT, b"after")) == []


def test_a_character_may_be_cut_between_fragments() -> None:
    reader = FrameReader(max_message_bytes=LIMIT)
    wire = server_frame(TEXT, b"\xc3", fin=False) + server_frame(0, b"\xa9")
    assert reader.feed(wire) == ["é".encode()]


def test_binary_is_not_checked_for_text() -> None:
    assert FrameReader(max_message_bytes=LIMIT).feed(server_frame(BINARY, b"\xff")) == [b"\xff"]


def test_close_carries_code_and_reason_and_ends_everything() -> None:
    reader = FrameReader(max_message_bytes=LIMIT)
    assert reader.feed(server_frame(CLOSE, b"\x03\xf0bye") + server_frame(TEXT, b"late")) == []
    assert reader.close == Close(1008, "bye")
    empty = FrameReader(max_message_bytes=LIMIT)
    empty.feed(server_frame(CLOSE, b""))
    assert empty.close == Close(1005, "")


@given(st.sampled_from([TEXT, PING]), st.binary(max_size=70_000))
def test_client_frames_are_read_by_another_implementation(opcode: int, payload: bytes) -> None:
    payload = payload[:125] if opcode == PING else payload.hex().encode()
    other = wf.FrameProtocol(client=False, extensions=[])
    other.receive_bytes(encode_frame(opcode, payload))
    frames = list(other.received_frames())
    assert (
        b"".join(f.payload.encode() if isinstance(f.payload, str) else bytes(f.payload) for f in frames)
        == payload
    )
    assert frames[-1].message_finished


def test_a_long_close_reason_is_cut_at_a_character() -> None:
    other = wf.FrameProtocol(client=False, extensions=[])
    other.receive_bytes(encode_close(1002, "é" * 100))
    (frame,) = other.received_frames()
    assert frame.payload == (1002, "é" * 61)
