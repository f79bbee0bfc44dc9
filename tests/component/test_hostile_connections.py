"""Connections that break the protocol or are too many: each is told so, counted, and costs nobody else anything."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import h2.connection
import h2.events
import h2.settings
import pytest
import trio
from hypercorn.protocol.ws_stream import WSStream
from structlog.testing import capture_logs
from trio_websocket import ConnectionClosed

from mdserver.web.server import tcp_server, websocket_connection
from mdserver.web.stream import endpoint

from .conftest import http_get, open_client, open_stream_server
from .http.conftest import FakeStore, Series

T0 = 1_710_892_800
MASK = b"\x01\x02\x03\x04"


def masked(first: int, payload: bytes) -> bytes:
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return bytes([first]) + size + MASK + bytes(b ^ MASK[n % 4] for n, b in enumerate(payload))


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[trio.SocketStream]:
    """A socket on which the upgrade is done and the first message was read."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        key = base64.b64encode(os.urandom(16)).decode()
        await stream.send_all(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        data = b""
        with trio.fail_after(30):
            while b"Connected to Market Data Server" not in data:
                data += await stream.receive_some()
        yield stream


async def everything(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(30):
        while part := await stream.receive_some():
            data += part
    return data


@pytest.fixture(autouse=True)
def _fresh_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged by another test keeps no line back."""
    for module in (tcp_server, endpoint):
        monkeypatch.setattr(module._log_rarely, "_seen", {})


VIOLATIONS = {
    "unmasked": (b"\x81\x02{}", 1002),
    "reserved bits": (masked(0xF1, b"{}"), 1002),
    "bad UTF-8": (masked(0x81, b"\xff\xfe\xfd"), 1007),
    "a ping of 126 bytes": (masked(0x89, b"x" * 126), 1002),
    "unknown opcode": (masked(0x83, b""), 1002),
}


@pytest.mark.parametrize("kind", list(VIOLATIONS))
async def test_a_violation_gets_its_close_code_and_is_counted_and_logged(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver.web.stream.endpoint.CLOSE_GRACE_S", 0.2)  # no answer is read any more
    frame, code = VIOLATIONS[kind]
    async with open_stream_server() as server, open_client(server.url) as other:
        with capture_logs() as logs:
            for _ in range(3):
                async with raw_client(server.port) as stream:
                    await stream.send_all(frame + masked(0x81, b'{"action":"ping"}'))
                    answer = await stream.receive_some()
                    assert answer[0] == 0x88, answer
                    assert int.from_bytes(answer[2:4], "big") == code
                    assert b"pong" not in answer
                    await stream.send_all(masked(0x88, struct.pack(">H", code)))
                    await everything(stream)
        assert server.value("client_violations_total", code=str(code)) == 3
        assert [log["code"] for log in logs if "broke the WebSocket protocol" in log["event"]] == [code]
        assert (await other.ask({"action": "ping"}))["type"] == "pong"
        with trio.fail_after(30):
            while server.value("client_disconnects_total", code=str(code)) < 3:
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("bounds", "status", "code"),
    [
        ({"max_connections": 3}, 503, "unavailable"),
        ({"max_connections_per_address": 3}, 429, "rate_limited"),
    ],
)
async def test_too_many_connections_are_told_so_and_closed(
    bounds: dict[str, int], status: int, code: str
) -> None:
    async with open_stream_server(**bounds) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(server.url)) for _ in range(3)]
        answer = await http_get(server.port, "/api/brokers")
        assert (answer.status, answer.json()["code"]) == (status, code)
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) > 0
        async with open_client(server.url) as fourth:
            assert (await fourth.get())["code"] == 406
            with pytest.raises(ConnectionClosed) as closed:
                await fourth.get()
            assert closed.value.reason.code == 1013
        bound = next(iter(bounds))
        label = "all" if bound == "max_connections" else "address"
        assert server.value("connections_refused_total", bound=label) == 2
        for client in clients:
            assert (await client.ask({"action": "ping"}))["type"] == "pong"
        await stack.aclose()
        with trio.fail_after(30):  # they are free again
            while (await http_get(server.port, "/health/live")).status != 200:
                await trio.sleep(0.01)


async def test_a_refused_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_server, "REFUSED_S", 0.1)
    async with open_stream_server(max_connections=1) as server, open_client(server.url):
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            assert await everything(stream) == b""


UPGRADE = (
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
)
UPGRADE += b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
PRIOR_KNOWLEDGE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


async def first_bytes(port: int, request: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        with trio.fail_after(30):
            return bytes(await stream.receive_some())


async def test_cleartext_http2_is_off_unless_configured() -> None:
    async with open_stream_server() as server:
        assert (await first_bytes(server.port, PRIOR_KNOWLEDGE)).startswith(b"HTTP/1.1 505")
        assert (await first_bytes(server.port, UPGRADE)).startswith(b"HTTP/1.1 200")
    async with open_stream_server(cleartext_http2=True) as server:
        assert (await first_bytes(server.port, UPGRADE)).startswith(b"HTTP/1.1 101")
        assert not (await first_bytes(server.port, PRIOR_KNOWLEDGE)).startswith(b"HTTP/1")


async def test_out_of_descriptors_costs_new_clients_only_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept = trio.SocketListener.accept
    lacking = True

    async def scarce(listener: trio.SocketListener) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if lacking:
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listener)

    async with open_stream_server() as server, open_client(server.url) as client:
        with capture_logs() as logs:
            monkeypatch.setattr(trio.SocketListener, "accept", scarce)
            monkeypatch.setattr(tcp_server, "ACCEPT_PAUSE_S", 0.001)
            async with open_client(server.url):  # takes the accept that was under way
                await trio.sleep(0.05)
                assert (await client.ask({"action": "ping"}))["type"] == "pong"
                lacking = False
                assert (await http_get(server.port, "/health/live")).status == 200
        told = [log for log in logs if "file descriptor" in log["event"]]
        assert len(told) == 1


async def test_an_http2_client_that_takes_nothing_is_cut_and_holds_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixteen requests for a page each, with a window of 0: two pages are made, and the connection is reset."""
    monkeypatch.setattr(tcp_server, "SEND_TIMEOUT_S", 0.3)
    store = FakeStore([Series(1, "one", "EURUSD", "tick", row_count=5_000)])
    http = h2.connection.H2Connection()
    http.local_settings = h2.settings.Settings(
        client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    http.initiate_connection()
    path = f"/api/ticks?symbol=EURUSD&from={T0}&to={T0 + 9_999}&limit=5000"
    head = [(":method", "GET"), (":path", path), (":authority", "localhost"), (":scheme", "http")]
    async with open_stream_server(cleartext_http2=True, services={"store": store}) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            for number in range(16):
                http.send_headers(2 * number + 1, head, end_stream=True)
            await stream.send_all(http.data_to_send())
            with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert 1 <= store.reads.count("ticks") <= 2
        assert server.value("connections_dropped_total") >= 1
        assert (await http_get(server.port, "/health/live")).status == 200


async def test_an_http2_client_that_reads_gets_all_of_a_large_answer() -> None:
    store = FakeStore([Series(1, "one", "EURUSD", "tick", row_count=5_000)])
    http = h2.connection.H2Connection()
    http.initiate_connection()
    path = f"/api/ticks?symbol=EURUSD&from={T0}&to={T0 + 9_999}&limit=5000"
    async with open_stream_server(cleartext_http2=True, services={"store": store}) as server:
        plain = await http_get(server.port, path)
        head = [(":method", "GET"), (":path", path), (":authority", "localhost"), (":scheme", "http")]
        body = b""
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            http.send_headers(1, head, end_stream=True)
            await stream.send_all(http.data_to_send())
            with trio.fail_after(30):
                while len(body) < len(plain.body):
                    for event in http.receive_data(bytes(await stream.receive_some())):
                        if isinstance(event, h2.events.DataReceived):
                            body += event.data
                            http.acknowledge_received_data(event.flow_controlled_length, 1)
                    await stream.send_all(http.data_to_send())
        assert body == plain.body


def test_a_client_that_goes_before_it_is_accepted_is_no_fault_of_ours() -> None:
    """Hypercorn makes the stream's connection as it accepts, which it leaves out for a client that is gone."""
    stream = WSStream.__new__(WSStream)
    gone = SimpleNamespace(scope={"extensions": {websocket_connection._EXTENSION: stream}})
    websocket_connection.on_violation(gone, pytest.fail)
