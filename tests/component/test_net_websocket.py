"""The WebSocket client against servers that behave, and servers that do not, over real sockets."""

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mdserver.errors import Rejected, Unavailable
from mdserver.net import WebSocketClosed, fetch, open_websocket
from mdserver.net.websocket import WebSocket
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance

Script = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """A server that reads one request head and then does what the script says."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await stream.receive_some()
            await script(stream, head)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"ws://localhost:{listeners[0].socket.getsockname()[1]}/x"
        nursery.cancel_scope.cancel()


def accept(head: bytes, *, key: bytes | None = None) -> bytes:
    sent = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
    digest = hashlib.sha1(
        (key or sent) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False
    ).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


async def test_one_receive_hands_over_everything_that_came() -> None:
    async def script(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accept(head) + b"\x81\x01a\x81\x01b")  # with the handshake's own segment
        await trio.sleep_forever()

    async with scripted(script) as url:
        with trio.fail_after(30):
            async with open_websocket(url, close_timeout_s=0.1) as websocket:
                assert await websocket.receive() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"garbage\r\n\r\n", "not a WebSocket handshake"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "Sec-WebSocket-Accept"),
        (b"", "closed before"),
    ],
)
async def test_a_wrong_handshake_is_unavailable(answer: bytes, text: str) -> None:
    async def script(stream: trio.SocketStream, _head: bytes) -> None:
        await stream.send_all(answer)

    async with scripted(script) as url:
        with trio.fail_after(30), pytest.raises(Unavailable, match=text):
            async with open_websocket(url):
                pass


async def test_another_keys_answer_is_refused() -> None:
    async def script(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accept(head, key=b"x"))

    async with scripted(script) as url:
        with trio.fail_after(30), pytest.raises(Unavailable, match="does not match our key"):
            async with open_websocket(url):
                pass


@pytest.mark.parametrize(
    ("status", "headers", "error", "retry_after_s"),
    [
        (451, {}, Rejected, None),
        (403, {}, Rejected, None),
        (429, {"Retry-After": "17"}, Unavailable, 17.0),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, Unavailable, 0.0),
        (503, {"Retry-After": "soon"}, Unavailable, None),
    ],
)
async def test_refusals_quote_the_body(
    status: int, headers: dict[str, str], error: type[Exception], retry_after_s: float | None
) -> None:
    rules = BinanceRules(refuse=(status, headers, '{"msg":"Service unavailable from here"}'))
    async with open_fake_binance(rules) as venue:
        with pytest.raises(error, match=f"HTTP {status}.*Service unavailable from here") as caught:
            async with open_websocket(f"{venue.url}/ws"):
                pass
        if isinstance(caught.value, Unavailable):
            assert caught.value.retry_after_s == retry_after_s


async def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match="cannot connect"):
        async with open_websocket("ws://127.0.0.1:1/"):
            pass


@pytest.mark.parametrize("url", ["http://localhost", "ws://", "localhost"])
async def test_not_a_websocket_url(url: str) -> None:
    with pytest.raises(Rejected, match="expected ws://"):
        async with open_websocket(url):
            pass


async def test_a_silent_handshake_times_out() -> None:
    async def script(_stream: trio.SocketStream, _head: bytes) -> None:
        await trio.sleep_forever()

    async with scripted(script) as url:
        with pytest.raises(Unavailable, match=r"no WebSocket within 0\.05 s"):
            async with open_websocket(url, connect_timeout_s=0.05):
                pass


async def test_tls_to_a_server_without_it() -> None:
    async with open_fake_binance() as venue:
        with pytest.raises(Unavailable, match=r"the TLS handshake with .* failed"):
            async with open_websocket(venue.url.replace("ws:", "wss:"), connect_timeout_s=5):
                pass


async def test_ping_is_answered_with_its_payload() -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws") as websocket:
            payload = await venue.connections[0].send_ping()
            assert len(payload) == 13
            assert await websocket.receive() == []
            await venue.wait_until(lambda: venue.connections[0].pongs == [payload])


async def test_messages_that_came_with_an_unanswerable_ping_are_delivered() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    websocket = WebSocket("ws://x", ours, max_message_bytes=1 << 20)
    await theirs.send_all(b"\x81\x01a\x81\x01b\x89\x01p")
    theirs.receive_stream.close()  # the venue takes nothing any more
    assert await websocket.receive() == [b"a", b"b"]
    with pytest.raises(Unavailable):
        await websocket.receive()


async def test_messages_before_a_close_are_delivered_and_the_close_is_told() -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws") as websocket:
            await venue.connections[0].send_text("last")
            await venue.connections[0].close(1008, "Too many requests")
            assert await websocket.receive() == [b"last"]
            with pytest.raises(WebSocketClosed, match="1008 Too many requests") as caught:
                await websocket.receive()
            assert caught.value.code == 1008
            with pytest.raises(Unavailable):
                await websocket.send("more")


async def test_we_close_properly() -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws"):
            pass
        await venue.wait_until(lambda: bool(venue.past))
        assert venue.past[0].client_close == (1000, "")


async def test_cancelled_we_close_properly_too() -> None:
    async with open_fake_binance() as venue:
        with trio.move_on_after(0.05):
            async with open_websocket(f"{venue.url}/ws") as websocket:
                await websocket.receive()
        await venue.wait_until(lambda: bool(venue.past))
        assert venue.past[0].client_close == (1000, "")


async def test_a_server_that_never_answers_a_close_costs_its_deadline_only() -> None:
    async def script(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accept(head))
        await trio.sleep_forever()

    async with scripted(script) as url:
        with trio.fail_after(30):
            async with open_websocket(url, close_timeout_s=0.05):
                pass


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"\x83\x00", "unknown opcode"), (b"\x81\x81abcdx", "masked"), (b"\x81\x01\xff", "UTF-8")],
)
async def test_a_server_that_breaks_the_protocol(raw: bytes, text: str) -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws") as websocket:
            await venue.connections[0].send_raw(raw)
            with pytest.raises(Unavailable, match=text):
                await websocket.receive()
        await venue.wait_until(lambda: bool(venue.past))
        assert venue.past[0].client_close is not None
        assert venue.past[0].client_close[0] in (1002, 1007)


async def test_reset_in_the_middle_of_a_frame() -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws") as websocket:
            await venue.connections[0].send_raw(b"\x81\x05he")
            assert await websocket.receive() == []
            venue.connections[0].reset()
            with pytest.raises(Unavailable, match="connection lost"):
                await websocket.receive()


async def test_end_without_a_close_frame() -> None:
    async def script(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accept(head))

    async with scripted(script) as url:
        async with open_websocket(url) as websocket:
            with pytest.raises(Unavailable, match="ended without a close frame"):
                await websocket.receive()


async def test_silence_is_probed_then_given_up() -> None:
    async with open_fake_binance(BinanceRules(answer_pings=False)) as venue:
        async with open_websocket(f"{venue.url}/ws", silence_s=0.1) as websocket:
            with trio.fail_after(30), pytest.raises(Unavailable, match=r"nothing received for 0\.1 s"):
                await websocket.receive()


async def test_a_pong_ends_the_silence() -> None:
    async with open_fake_binance() as venue:
        async with open_websocket(f"{venue.url}/ws", silence_s=0.1) as websocket:
            with trio.fail_after(30):
                assert await websocket.receive() == []


@pytest.fixture
async def rest() -> AsyncIterator[FakeBinance]:
    async with open_fake_binance() as venue:
        yield venue


async def test_fetch(rest: FakeBinance) -> None:
    url = f"{rest.rest_url}/api/v3/exchangeInfo"
    rest.exchange_info = b"x" * 1000
    assert await fetch(url) == b"x" * 1000
    with pytest.raises(Unavailable, match="larger than 999 bytes"):
        await fetch(url, max_bytes=999)
    rest.rules.rest_delay_s = 60
    with pytest.raises(Unavailable, match=r"no complete answer within 0\.05 s"):
        await fetch(url, timeout_s=0.05)


@pytest.mark.parametrize(
    ("status", "error"), [(429, Unavailable), (418, Unavailable), (500, Unavailable), (404, Rejected)]
)
async def test_fetch_statuses(rest: FakeBinance, status: int, error: type[Exception]) -> None:
    rest.rules.rest_refuse = (status, {"Retry-After": "3"}, "because")
    with pytest.raises(error, match=f"HTTP {status}: because"):
        await fetch(f"{rest.rest_url}/api/v3/exchangeInfo")


async def test_fetch_from_nobody() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await fetch("http://127.0.0.1:1/")
