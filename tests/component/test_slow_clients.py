"""Clients that do not read, peers that misbehave: nobody else notices, and memory stays bounded."""

from __future__ import annotations

import contextlib
import json
import socket
from contextlib import asynccontextmanager, closing
from math import inf
from pathlib import Path

import pytest
import trio
from hypercorn.events import Closed
from trio_websocket import ConnectionClosed
from wsproto.frame_protocol import Opcode

from mdserver.model import Tick, Trade
from mdserver.web.server import tcp_server as server_module
from mdserver.web.stream import clients as clients_module
from mdserver.web.stream import sink as sink_module

from .conftest import open_client, open_stream_server

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
T0 = 1_710_918_000_000_000


class RawClient:
    """A client that reads only when it is told to, through a small receive buffer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._pending = b""

    async def send_text(self, text: str) -> None:
        payload = text.encode()
        mask = b"\x01\x02\x03\x04"
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        assert len(payload) < 126
        await self.stream.send_all(bytes((0x81, 0x80 | len(payload))) + mask + masked)

    async def subscribe(self, *symbols: str, **fields: object) -> None:
        """Subscribe, and read up to the answer, which comes before any record."""
        await self.send_text(json.dumps({"action": "subscribe", "symbols": symbols, **fields}))
        with trio.fail_after(30):
            while b'"ack"' not in self._pending:
                await self.take(4096)
        self._pending = b""

    async def take(self, size: int) -> None:
        """Read some bytes, to be looked at later."""
        self._pending += await self.stream.receive_some(size)

    async def frames_until_end(
        self, limit_s: float = 5.0, *, most: float = inf, of: bytes = b""
    ) -> list[tuple[int, bytes]]:
        """Read whole frames until there are ``most`` with ``of`` in them, or a close frame, or the stream's end."""
        out: list[tuple[int, bytes]] = []
        found = 0
        data = self._pending
        with trio.move_on_after(limit_s):
            while True:
                while (frame := _cut(data)) is not None:
                    opcode, payload, data = frame
                    out.append((opcode, payload))
                    found += of in payload
                    if opcode == Opcode.CLOSE or found >= most:
                        return out
                try:
                    more = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    return out
                if not more:
                    return out
                data += more
        return out


def _cut(data: bytes) -> tuple[int, bytes, bytes] | None:
    if len(data) < 2:
        return None
    size, head = data[1], 2
    if size == 126:
        size, head = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, head = int.from_bytes(data[2:10], "big"), 10
    if len(data) < head + size:
        return None
    return data[0] & 15, data[head : head + size], data[head + size :]


@asynccontextmanager
async def open_raw(port: int):
    """Upgrade, and yield a client that reads nothing by itself."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", port))
    stream = trio.SocketStream(sock)
    await stream.send_all(UPGRADE)
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some(4096)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"101" in head.split(b"\r\n")[0]
    assert b"permessage-deflate" not in head.lower()
    client = RawClient(stream)
    client._pending = rest
    try:
        yield client
    finally:
        await trio.aclose_forcefully(stream)


async def settle(server, count: int) -> None:
    with trio.fail_after(30):
        while len(server.clients.sessions) != count:
            await trio.sleep(0.01)


async def test_ticks_are_conflated_for_a_stalled_reader_and_the_jump_is_explained() -> None:
    async with open_stream_server() as server, open_raw(server.port) as stalled:
        await stalled.subscribe("EURUSD")
        total = 60_000
        for n in range(total):
            server.brokers["one"].publish(Tick("EURUSD", T0 + n, 1.1, 1.2))
            if n % 200 == 0:
                await trio.lowlevel.checkpoint()
        (session,) = server.clients.sessions
        assert session.sink.behind
        assert session.sink._backlog.size < 1 << 20
        with trio.move_on_after(2):
            frames = await stalled.frames_until_end(1.0)
        ticks = [m for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "tick"]
        last = 0
        for message in ticks:
            assert message["seq"] == last + 1 + message.get("conflated", 0)
            last = message["seq"]
        assert last == total
        assert len(ticks) < total
        assert server.value("records_conflated_total") == total - len(ticks)


async def test_trades_are_never_conflated_past_the_bound_407_and_1013() -> None:
    async with open_stream_server(client_buffer_bytes=65536) as server:
        async with open_raw(server.port) as stalled, open_client(server.url) as other:
            await stalled.subscribe("BTCUSDT", types=["trade"])
            ack = await other.subscribe("BTCUSDT", types=["trade"])
            assert ack["results"][0]["status"] == "active"
            sent = 0
            while server.value("client_errors_total", code="407") == 0:
                server.brokers["one"].publish(Trade("BTCUSDT", T0 + sent, 67000.1, 0.5, "sell", str(sent)))
                sent += 1
                assert sent < 1_000_000
                assert (await other.get())["seq"] == sent
            frames = await stalled.frames_until_end()
            trades = [m for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "trade"]
            assert [m["seq"] for m in trades] == list(range(1, len(trades) + 1))
            errors = [m for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "error"]
            assert [m["code"] for m in errors] == [407]
            assert frames[-1][0] == Opcode.CLOSE
            assert frames[-1][1][:2] == (1013).to_bytes(2, "big")
            await settle(server, 1)


async def test_no_number_of_ticks_makes_a_slow_client() -> None:
    async with open_stream_server(client_buffer_bytes=4096) as server, open_raw(server.port) as slow:
        await slow.subscribe("A", "B", "C", "D")
        for n in range(20_000):
            server.brokers["one"].publish(*[Tick(symbol, T0 + n, 1.1, 1.2) for symbol in "ABCD"])
        frames = await slow.frames_until_end(1.0)
        ticks = [m for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "tick"]
        assert {m["symbol"]: m["seq"] for m in ticks} == dict.fromkeys("ABCD", 20_000)
        assert server.value("client_errors_total", code="407") == 0


async def test_a_reader_that_catches_up_gets_every_trade() -> None:
    async with open_stream_server() as server, open_raw(server.port) as slow:
        await slow.subscribe("BTCUSDT", types=["trade"])
        for n in range(5000):
            server.brokers["one"].publish(Trade("BTCUSDT", T0 + n, 67000.1, 0.5, "sell", str(n)))
        (session,) = server.clients.sessions
        assert session.sink.behind
        frames = await slow.frames_until_end(20.0, most=5000, of=b'"trade_id"')
        seqs = [m["seq"] for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "trade"]
        assert seqs == list(range(1, 5001))
        with trio.fail_after(30):
            await session.sink.drained()


async def test_no_sign_of_life_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(clients_module, "PONG_TIMEOUT_S", 0.2)
    monkeypatch.setattr(clients_module, "_CHECK_S", 0.05)
    async with (
        open_stream_server() as server,
        open_raw(server.port) as mute,
        open_client(server.url) as alive,
    ):
        frames = await mute.frames_until_end()
        assert [op for op, _ in frames if op == Opcode.PING]
        assert frames[-1][0] == Opcode.CLOSE
        assert frames[-1][1][:2] == (1008).to_bytes(2, "big")
        assert (await alive.ask({"action": "ping"}))["type"] == "pong"


async def test_a_client_that_is_behind_and_takes_nothing_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "STALL_S", 0.2)
    async with open_stream_server() as server, open_raw(server.port) as stalled:
        await stalled.subscribe("BTCUSDT", types=["trade"])
        (session,) = server.clients.sessions
        n = 0
        while not session.sink.behind:
            n += 1
            server.brokers["one"].publish(Trade("BTCUSDT", T0 + n, 67000.1, 0.5, "sell", str(n)))
        await settle(server, 0)  # long before a ping is due
        assert session.close_code is None  # it is told nothing: it would not read that either
        server.brokers["one"].publish(Trade("BTCUSDT", T0 + n, 67000.1, 0.5, "sell", "last"))


@pytest.mark.serial
async def test_a_slow_reader_lives_as_long_as_it_takes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers no ping, since none reaches it. Serial: what it takes within a bound depends on the machine."""
    monkeypatch.setattr(sink_module, "STALL_S", 0.5)
    monkeypatch.setattr(clients_module, "PING_INTERVAL_S", 0.3)
    monkeypatch.setattr(clients_module, "PONG_TIMEOUT_S", 0.3)
    monkeypatch.setattr(clients_module, "_CHECK_S", 0.05)
    async with open_stream_server(client_buffer_bytes=1 << 24) as server, open_raw(server.port) as slow:
        await slow.subscribe("BTCUSDT", types=["trade"])
        (session,) = server.clients.sessions
        for n in range(40_000):
            server.brokers["one"].publish(Trade("BTCUSDT", T0 + n, 67000.1, 0.5, "sell", str(n)))
        started = trio.current_time()
        while trio.current_time() - started < 1.5:  # longer than all bounds together
            await slow.take(5_000)
            await trio.sleep(0.01)
        assert session.sink.behind
        assert session.close_code is None
        monkeypatch.undo()
        frames = await slow.frames_until_end(20.0, most=40_000, of=b'"trade_id"')
        seqs = [m["seq"] for op, p in frames if op == 1 and (m := json.loads(p))["type"] == "trade"]
        assert seqs == list(range(1, 40_001))


async def test_answers_wait_where_a_client_does_not_read_them() -> None:
    """A flood of pings: the server stops reading them, in place of piling its pongs up or ending the connection."""
    async with open_stream_server() as server, open_raw(server.port) as stalled:
        await settle(server, 1)
        (session,) = server.clients.sessions
        ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
        sent, blocked = 0, False
        with trio.fail_after(30):
            while not blocked and sent < 200_000:
                with trio.move_on_after(0.5) as scope:
                    await stalled.stream.send_all(ping * 100)
                    sent += 100
                blocked = scope.cancelled_caught
        assert blocked
        size = session.sink._backlog.size
        assert sink_module.HIGH_WATER_BYTES < size <= sink_module.HIGH_WATER_BYTES + 127
        assert server.value("client_errors_total", code="407") == 0
        frames = await stalled.frames_until_end(20.0, most=sent, of=b"p" * 125)
        assert [op for op, _ in frames][-sent:] == [Opcode.PONG] * sent


async def test_closing_a_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SEND_TIMEOUT_S", 0.1)
    async with open_stream_server() as server, open_raw(server.port):
        await settle(server, 1)
        (session,) = server.clients.sessions
        tcp = session.sink._tcp
        monkeypatch.setattr(tcp, "_close", trio.sleep_forever)
        with trio.fail_after(8):  # it is ten seconds otherwise
            await tcp.protocol_send(Closed())


@pytest.mark.parametrize("early", [b"x", b"\xff", b"\x81\x05hello"])
async def test_bytes_that_come_with_the_upgrade_end_that_connection_only(early: bytes) -> None:
    """Hypercorn's issue 225: without the guard this ends the server."""
    async with open_stream_server() as server, open_client(server.url) as other:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(UPGRADE + early)
            with trio.move_on_after(30) as scope, contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            assert not scope.cancelled_caught
        assert server.value("connections_dropped_total") == 1
        assert (await other.ask({"action": "ping"}))["type"] == "pong"
        async with open_client(server.url) as newcomer:
            assert (await newcomer.ask({"action": "ping"}))["type"] == "pong"


async def test_garbage_after_the_upgrade_ends_that_connection_only() -> None:
    async with open_stream_server() as server, open_client(server.url) as other:
        async with open_raw(server.port) as bad:
            await bad.stream.send_all(b"\xff" * 100)
            with trio.fail_after(30):
                await bad.frames_until_end()
            await settle(server, 1)
        assert (await other.ask({"action": "ping"}))["type"] == "pong"


async def test_a_message_without_end_takes_no_memory_and_ends_the_connection() -> None:
    async with open_stream_server() as server, open_raw(server.port) as bad:
        await settle(server, 1)
        (session,) = server.clients.sessions
        stream = session.sink._tcp.protocol.protocol.stream
        await bad.stream.send_all(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(30):
            for _ in range(100):
                await bad.stream.send_all(b"x" * 65536)
                held = stream.buffer.value
                assert held is None or len(held.getvalue()) <= 65536
        frames = await bad.frames_until_end()
        assert frames[-1][1][:2] == (1009).to_bytes(2, "big")
        await settle(server, 0)


async def test_the_bound_on_a_message_counts_bytes() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.send("€" * 30_000)
        with pytest.raises(ConnectionClosed) as closed:
            await client.connection.get_message()
        assert closed.value.reason.code == 1009


async def test_a_client_closed_over_its_queued_requests_leaves_no_socket_behind() -> None:
    async with open_stream_server() as server:
        await trio.sleep(0.05)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            async with open_raw(server.port) as rude:
                for _ in range(20):
                    await rude.send_text("?" * 10)
                await rude.stream.send_all(b"\x81\x81\0\0\0\0?" * 200)
                frames = await rude.frames_until_end()
                assert frames[-1][1][:2] == (1008).to_bytes(2, "big")
        with trio.fail_after(30):
            while len(list(Path("/proc/self/fd").iterdir())) > before:
                await trio.sleep(0.05)


@asynccontextmanager
async def download(size: int):
    """Ask a server for so many bytes; yield it and a socket with a small buffer from which nothing was read."""
    async with open_stream_server() as server:
        body = b"x" * size

        @server.app.get("/big")
        async def big() -> bytes:
            return body

        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with closing(sock):
            await sock.connect(("127.0.0.1", server.port))
            await sock.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            yield server, sock


async def test_a_peer_that_reads_no_response_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard such a send hangs in a shield for ever, through shutdown too."""
    monkeypatch.setattr(server_module, "SEND_TIMEOUT_S", 0.3)
    async with download(20_000_000) as (server, _):
        with trio.fail_after(30):
            while server.value("connections_dropped_total") == 0:
                await trio.sleep(0.02)


@pytest.mark.serial
async def test_a_slow_but_steady_download_is_served_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serial: a bound of half a second must not end what is slow."""
    monkeypatch.setattr(server_module, "SEND_TIMEOUT_S", 0.5)
    async with download(3_000_000) as (server, sock):
        started, got = trio.current_time(), 0
        while data := await sock.recv(1 << 20):
            got += len(data)
            await trio.sleep(0.002)
        assert got > 3_000_000
        assert trio.current_time() - started > 0.5  # longer than one bound
        assert server.value("connections_dropped_total") == 0


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health/live HTTP/1.0\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",  # kept alive, and then idle for too long
    ],
)
async def test_http_connections_are_closed(request_: bytes) -> None:
    async with open_stream_server(keep_alive_s=1) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(request_)
            answer = b""
            with trio.fail_after(30):
                while data := await stream.receive_some():
                    answer += data
        assert b" 200 " in answer.split(b"\r\n")[0]


async def test_shutdown_is_not_held_up_by_a_stalled_reader() -> None:
    started = trio.current_time()
    async with open_stream_server() as server, open_raw(server.port) as stalled:
        await stalled.subscribe("T", types=["trade"])
        for n in range(5000):
            server.brokers["one"].publish(Trade("T", T0 + n, 1.5, 2.0))
        started = trio.current_time()
        server.clients.close_all()
        with trio.fail_after(15):
            await server.clients.gone()
    assert trio.current_time() - started < 20  # a stall is borne for half a minute
