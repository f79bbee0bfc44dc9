"""TLS: streams on the fast path, certificates that are renewed, peers that speak something else."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import connect_websocket_url

import mdserver_client
from mdserver.config import TlsConfig
from mdserver.errors import ConfigError
from mdserver.model import Tick
from mdserver.web.server.tls import Certificate
from mdserver.web.stream import clients
from mdserver.web.stream.sink import TlsSink

from .conftest import Client, StreamServer, open_stream_server

FOLDER = Path(__file__).parent / "tls"
FIRST, RENEWED = (
    TlsConfig(FOLDER / f"{name}.pem", FOLDER / f"{name}.pem") for name in ("localhost", "renewed")
)
T0 = 1_700_000_000_000_000
WAIT_S = 30.0
"""For what takes milliseconds: it bounds a test that hangs."""
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def trusting(files: TlsConfig = FIRST) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.certificate)
    context.check_hostname = False
    return context


@asynccontextmanager
async def tls_client(server: StreamServer, context: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(WAIT_S):
            connection = await connect_websocket_url(
                nursery, server.url, ssl_context=context or trusting(), max_message_size=1 << 24
            )
        client = Client(connection)
        assert (await client.get())["type"] == "status"
        yield client
        with trio.move_on_after(1):
            await connection.aclose()
        await trio.aclose_forcefully(connection._stream)
        nursery.cancel_scope.cancel()


async def fetch(port: int, context: ssl.SSLContext) -> bytes:
    """Ask for liveness; the server ends the connection."""
    with trio.fail_after(WAIT_S):
        transport = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=False)
        answer = b""
        try:
            await stream.send_all(
                b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            while part := await stream.receive_some():  # raises where the end is not said by TLS itself
                answer += part
        finally:
            await trio.aclose_forcefully(stream)
        return answer


async def test_http_with_tls_ends_with_a_farewell() -> None:
    async with open_stream_server(certificate=Certificate(FIRST)) as server:
        answer = await fetch(server.port, trusting())
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b'{"status":"live"}')


async def test_a_stream_with_tls_is_written_to_directly_and_in_order() -> None:
    async with (
        open_stream_server(certificate=Certificate(FIRST), client_buffer_bytes=1 << 24) as server,
        tls_client(server) as client,
    ):
        await client.subscribe("EURUSD", broker="one")
        (session,) = server.clients.sessions
        assert isinstance(session.sink, TlsSink)
        for number in range(500):
            server.brokers["one"].publish(Tick("EURUSD", T0 + number, 1.0, 1.1))
            if number % 50 == 0:
                await client.send({"action": "ping"})  # answers take the same way
        seqs = []
        while len(seqs) < 500:
            if (message := await client.get())["type"] == "tick":
                seqs.append(message["seq"])
        assert seqs == list(range(seqs[0], seqs[0] + 500))


async def test_what_a_slow_client_is_owed_comes_whole_once_it_reads() -> None:
    """Frames wait unencrypted, so that they can be conflated, and leave encrypted in order."""
    async with open_stream_server(certificate=Certificate(FIRST), client_buffer_bytes=1 << 26) as server:
        with trio.fail_after(WAIT_S):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            transport = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
            await transport.socket.connect(("127.0.0.1", server.port))
            stream = trio.SSLStream(transport, trusting(), server_hostname="localhost")
            await stream.send_all(HANDSHAKE)
            got = await stream.receive_some()
            while not server.clients.sessions:
                await trio.sleep(0.01)
            (session,) = server.clients.sessions
            payload = json.dumps({"n": "x" * 60_000}).encode()
            frame = b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
            for _ in range(200):
                session.tell(frame)
            assert session.sink.behind
            while len(got) < 200 * len(frame) or got.count(payload) < 200:
                got += await stream.receive_some()
            assert got.endswith(frame * 200)
            await session.sink.drained()
            session.tell(frame)  # and afterwards directly again
            got = b""
            while len(got) < len(frame):
                got += await stream.receive_some()
            assert got == frame
            await trio.aclose_forcefully(stream)


async def test_a_client_with_tls_that_answers_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PING_INTERVAL_S", "_CHECK_S"):
        monkeypatch.setattr(clients, name, 0.05)
    async with open_stream_server(certificate=Certificate(FIRST)) as server, tls_client(server):
        (session,) = server.clients.sessions
        assert session.sink.last_heard_s() is not None
        with trio.fail_after(WAIT_S):
            while session.last_ping_s <= session.sink.last_heard_s():  # an answer came after a ping
                await trio.sleep(0.01)
        assert session.close_code is None


async def test_a_client_with_tls_that_answers_no_ping_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PING_INTERVAL_S", "PONG_TIMEOUT_S", "_CHECK_S"):
        monkeypatch.setattr(clients, name, 0.05)
    async with open_stream_server(certificate=Certificate(FIRST)) as server:
        with trio.fail_after(WAIT_S):
            transport = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with trio.SSLStream(
                transport, trusting(), server_hostname="localhost", https_compatible=True
            ) as stream:
                await stream.send_all(HANDSHAKE)
                got = b""
                while part := await stream.receive_some():
                    got += part
    assert b"no answer to a ping" in got


async def test_a_renewed_certificate_is_for_new_connections_and_old_ones_stay() -> None:
    certificate = Certificate(FIRST)
    async with open_stream_server(certificate=certificate) as server, tls_client(server) as client:
        certificate.load(RENEWED)
        with pytest.raises(trio.BrokenResourceError):
            await fetch(server.port, trusting(FIRST))
        assert (await fetch(server.port, trusting(RENEWED))).startswith(b"HTTP/1.1 200")
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


def test_files_that_cannot_be_used_are_said_and_change_nothing(tmp_path: Path) -> None:
    certificate = Certificate(FIRST)
    context = certificate.context
    (tmp_path / "bad.pem").write_text("nonsense")
    for files, expected in (
        (TlsConfig(tmp_path / "none.pem", FIRST.key), "cannot be read"),
        (TlsConfig(tmp_path / "bad.pem", FIRST.key), "no certificate and its key"),
        (TlsConfig(FIRST.certificate, RENEWED.key), "no certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=expected):
            certificate.load(files)
    assert certificate.context is context


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 400, b"\x80" * 100, b""],
)
async def test_a_peer_that_speaks_no_tls_is_let_go_and_others_are_served(sent: bytes) -> None:
    async with open_stream_server(certificate=Certificate(FIRST)) as server, tls_client(server) as client:
        with trio.fail_after(WAIT_S):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                if sent:
                    await stream.send_all(sent)
                await stream.send_eof()
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        assert (await client.ask({"action": "ping"}))["type"] == "pong"
        assert server.value("connections_dropped_total") == 0


async def test_the_python_client_streams_and_asks_with_tls() -> None:
    async with open_stream_server(certificate=Certificate(FIRST)) as server:
        url = f"https://127.0.0.1:{server.port}"
        trusted = trusting()
        async with trio.open_nursery() as nursery, mdserver_client.connect(url, tls=trusted) as client:

            async def publish() -> None:
                while True:
                    server.brokers["one"].publish(Tick("EURUSD", T0, 1.0, 1.1))
                    await trio.sleep(0.01)

            nursery.start_soon(publish)
            with trio.fail_after(WAIT_S):
                async with client.stream(["EURUSD"]) as stream:
                    async for record in stream:
                        assert record.symbol == "EURUSD"
                        break
                brokers = await client.brokers()
            assert [broker.broker for broker in brokers] == ["one"]
            nursery.cancel_scope.cancel()


async def test_the_python_client_says_that_it_does_not_trust_the_server() -> None:
    async with open_stream_server(certificate=Certificate(FIRST)) as server:
        url = f"https://127.0.0.1:{server.port}"
        with trio.fail_after(WAIT_S):
            async with mdserver_client.connect(url) as client:
                with pytest.raises(mdserver_client.ConnectionFailed, match="certificate verify failed"):
                    async for _ in client.stream(["EURUSD"]):
                        pass
                with pytest.raises(mdserver_client.ConnectionFailed, match="certificate verify failed"):
                    await client.brokers()
