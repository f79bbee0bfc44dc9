"""The frames that the Python client reads, however they are cut, and trickles for all clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

import mdserver_client
from mdserver.protocol.server_frames import close_frame, text_frame
from mdserver.testing.websocket_venue import (
    FakeClient,
    open_fake_venue,
)
from mdserver_client._websocket import WebSocket

from .misbehaving_server import (
    FakeServer,
    Run,
    node,
    quick,
    run,
    says,
    tick,
)

__all__ = ["node", "quick", "run"]  # fixtures


class Wire(anyio.abc.ByteStream):
    """The other end of a connection as a list of what it sends, piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.sent = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await anyio.lowlevel.checkpoint()
        try:
            return next(self.pieces)
        except StopIteration:
            raise anyio.EndOfStream from None

    async def send(self, item: bytes) -> None:
        self.sent += item

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def websocket(pieces: Iterable[bytes]) -> tuple[WebSocket, Wire]:
    wire = Wire(pieces)
    return WebSocket(
        wire, ClientProtocol(parse_uri("ws://here/"), state=State.OPEN, max_size=None), b""
    ), wire


LONG = b"x" * 70_000
FRAMES = (
    text_frame(b"one")
    + b"\x89\x02hi"  # a ping
    + text_frame(b"y" * 300)
    + b"\x01\x02fr\x89\x00\x00\x01a\x80\x05gment"  # a message in three parts, with a ping in between
    + text_frame(LONG)
    + close_frame(1012, "restart")
)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 65_537, 1_000_000])
async def test_frames_are_taken_however_they_are_cut(cut: int) -> None:
    data = FRAMES if cut > 100 else FRAMES.replace(text_frame(LONG), b"")
    connection, wire = websocket(data[at : at + cut] for at in range(0, len(data), cut))
    texts: list[bytes] = []

    async def read() -> None:
        while True:
            texts.extend(await connection.receive())

    with pytest.raises(mdserver_client.ConnectionFailed, match="1012: restart"):
        await read()
    assert texts == [b"one", b"y" * 300, b"fragment", *([LONG] if cut > 100 else [])]
    assert [frame[0] for frame in unmasked(wire.sent)] == [
        0x8A,
        0x8A,
        0x88,
    ]  # two pongs, and the close's answer


def unmasked(data: bytes) -> Iterator[bytes]:
    """Yield a client's short frames."""
    while data:
        size = 6 + (data[1] & 0x7F)
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1\x01a",  # a reserved bit
        b"\x81\x7f" + (1 << 40).to_bytes(8, "big"),  # a message of a terabyte
        b"\x80\x01a",  # the end of what never began
        b"\x8b\x00",  # an opcode that does not exist
    ],
)
async def test_what_is_no_frame_is_a_violation(frame: bytes) -> None:
    connection, _ = websocket([frame])
    with pytest.raises(mdserver_client.ProtocolViolation):
        await connection.receive()


async def test_a_trickle_is_taken_and_pings_are_answered(run: Run) -> None:
    def trickle(client: FakeClient, request: dict[str, Any]) -> None:
        client.bytes_per_s = 20_000
        client.ping(b"there?")
        says(tick(1, note="n" * 200), tick(2, note="n" * 1_000))(client, request)

    server = FakeServer(trickle)
    async with open_fake_venue(server):
        outcome = await run(server, 2)
        await server.wait_until(lambda: not server.clients)
    assert [record["seq"] for record in outcome.records] == [1, 2]
    assert server.past[0].pongs
