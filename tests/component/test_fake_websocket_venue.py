"""The generic fake venue: each thing that it can do to a client, seen from the client's side."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from mdserver.errors import Rejected, Unavailable
from mdserver.net import WebSocket, WebSocketClosed, fetch, open_http, open_websocket
from mdserver.testing.http_venue import open_fake_http
from mdserver.testing.recorded import Frame
from mdserver.testing.websocket_venue import (
    FakeClient,
    FakeWebSocketVenue,
    HttpAnswer,
    HttpRequest,
    open_fake_venue,
)


class Acme(FakeWebSocketVenue):
    """A venue as a third party would write it."""

    path = "/v9"

    async def on_connect(self, client: FakeClient) -> None:
        client.send({"hello": client.target})

    async def on_message(self, client: FakeClient, text: str) -> None:
        request = json.loads(text)
        client.topics.add(request["subscribe"])
        client.send({"subscribed": request["subscribe"]})

    async def on_http(self, request: HttpRequest) -> HttpAnswer:
        if request.path == "/symbols":
            return HttpAnswer(200, [request.query.get("like")], {"X-Acme": "1"})
        return await super().on_http(request)


async def connected(websocket: WebSocket) -> None:
    assert await websocket.receive() == [b'{"hello":"/v9"}']


async def subscribe(websocket: WebSocket, venue: Acme, topic: str) -> None:
    await websocket.send(json.dumps({"subscribe": topic}))
    assert await websocket.receive() == [json.dumps({"subscribed": topic}, separators=(",", ":")).encode()]
    await venue.wait_until(lambda: topic in venue.topics)


async def receive_all(websocket: WebSocket, into: list[bytes]) -> None:
    while True:
        into += await websocket.receive()


async def test_push_reaches_whoever_subscribed() -> None:
    async with open_fake_venue(Acme()) as venue:
        async with open_websocket(venue.url) as one, open_websocket(venue.url) as other:
            await connected(one)
            await connected(other)
            await subscribe(one, venue, "A")
            await subscribe(other, venue, "B")
            assert venue.push("A", {"bid": 1}) == 1
            assert venue.push(None, "to all") == 2
            got: list[bytes] = []
            while len(got) < 2:
                got += await one.receive()
            assert got == [b'{"bid":1}', b"to all"]
            assert await other.receive() == [b"to all"]
            assert [client.received for client in venue.clients] == [
                ['{"subscribe": "A"}'],
                ['{"subscribe": "B"}'],
            ]


async def test_replay_keeps_the_order_and_the_scaled_pauses() -> None:
    frames = [Frame(100.0, "", "a"), Frame(101.0, "", "b"), "c"]
    async with open_fake_venue(Acme()) as venue, open_websocket(venue.url) as websocket:
        await connected(websocket)
        before = trio.current_time()
        assert await venue.replay(frames, speed=20.0) == 3
        assert trio.current_time() - before >= 0.05
        got: list[bytes] = []
        while len(got) < 3:
            got += await websocket.receive()
        assert got == [b"a", b"b", b"c"]


async def test_who_says_something_and_closes_at_once_breaks_no_push() -> None:
    closing, pushed = trio.Event(), trio.Event()

    class Slow(FakeWebSocketVenue):
        async def on_message(self, client: FakeClient, text: str) -> None:
            closing.set()
            await pushed.wait()

    async with open_fake_venue(Slow()) as venue:
        protocol, port = wsproto.WSConnection(wsproto.ConnectionType.CLIENT), urlsplit(venue.url).port
        assert port is not None
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(
                protocol.send(Request(host="localhost", target=urlsplit(venue.url).path or "/"))
            )
            protocol.receive_data(await stream.receive_some())
            assert [type(event) for event in protocol.events()] == [AcceptConnection]
            last = protocol.send(TextMessage(data="bye")) + protocol.send(CloseConnection(code=1000))
            await stream.send_all(last)
            with trio.fail_after(30):
                await closing.wait()
                venue.push(None, "too late")
                pushed.set()
                protocol.receive_data(await stream.receive_some())
        assert [type(event) for event in protocol.events()] == [CloseConnection]


@pytest.mark.parametrize(
    ("act", "error", "told"),
    [
        (lambda venue: venue.disconnect(1012, "restart"), WebSocketClosed, "1012 restart"),
        (FakeWebSocketVenue.hang_up, Unavailable, "ended without a close frame"),
        (FakeWebSocketVenue.reset, Unavailable, "connection lost"),
        (FakeWebSocketVenue.reset_in_frame, Unavailable, "connection lost"),
        (FakeWebSocketVenue.go_dark, Unavailable, "nothing received for 0.4 s, not even a pong"),
        (lambda venue: venue.clients[0].send_raw(b"\xff\xff\xff\xff"), Unavailable, "broke the WebSocket protocol"),
    ],
)  # fmt: skip
async def test_each_end(act: Callable[[Acme], object], error: type[Unavailable], told: str) -> None:
    async with open_fake_venue(Acme()) as venue:
        async with open_websocket(venue.url, silence_s=0.4) as websocket:
            await connected(websocket)
            act(venue)
            with trio.fail_after(30), pytest.raises(error, match=told):
                await receive_all(websocket, [])
        if act is not FakeWebSocketVenue.go_dark:
            with trio.fail_after(30):
                await venue.wait_until(lambda: not venue.clients)
            assert len(venue.past) == 1


async def test_what_was_sent_before_an_end_arrives() -> None:
    async with open_fake_venue(Acme()) as venue, open_websocket(venue.url) as websocket:
        got: list[bytes] = []
        await connected(websocket)
        for number in range(1000):
            venue.push(None, str(number))
        venue.disconnect()
        venue.push(None, "never")
        with trio.fail_after(30), pytest.raises(WebSocketClosed):
            await receive_all(websocket, got)
        assert got == [str(number).encode() for number in range(1000)]


@pytest.mark.serial
async def test_a_slow_venue_delivers_all_and_delays_nobody_else() -> None:
    """Serial: it measures that a client is not delayed."""
    async with open_fake_venue(Acme()) as venue:
        async with open_websocket(venue.url) as slow, open_websocket(venue.url) as fast:
            await connected(slow)
            await connected(fast)
            venue.clients[0].bytes_per_s = 2000.0
            for _ in range(5):
                venue.push(None, "x" * 100)
            before = trio.current_time()
            got: list[bytes] = []
            while len(got) < 5:
                got += await fast.receive()
            quick = trio.current_time() - before
            got = []
            while len(got) < 5:
                got += await slow.receive()
            assert got == [b"x" * 100] * 5
            assert quick < 0.2 <= trio.current_time() - before


async def test_pings_both_ways() -> None:
    async with open_fake_venue(Acme()) as venue, open_websocket(venue.url, silence_s=0.4) as websocket:
        await connected(websocket)
        venue.ping()
        assert await websocket.receive() == []
        await venue.wait_until(lambda: venue.clients[0].pongs == [b"venue"])
        venue.clients[0].answers_pings = False
        with trio.fail_after(30), pytest.raises(Unavailable, match="not even a pong"):
            await receive_all(websocket, [])


async def test_refused_and_admitted_again() -> None:
    async with open_fake_venue(Acme()) as venue:
        venue.refuse(451, {"why": "location"})
        with pytest.raises(Rejected, match=r'HTTP 451: \{"why":"location"\}'):
            async with open_websocket(venue.url):
                pass
        venue.refuse(429, headers={"Retry-After": "7"})
        with pytest.raises(Unavailable, match="HTTP 429") as caught:
            async with open_websocket(venue.url):
                pass
        assert caught.value.retry_after_s == 7
        venue.admit()
        async with open_websocket(venue.url) as websocket:
            await connected(websocket)
        assert venue.attempts == 3


async def test_http_shares_the_port() -> None:
    async with open_fake_venue(Acme()) as venue:
        assert await fetch(f"{venue.rest_url}/symbols?like=a%20b") == b'["a b"]'
        with pytest.raises(Rejected, match=r"HTTP 404.*nothing at /other"):
            await fetch(f"{venue.rest_url}/other")
        with pytest.raises(Rejected, match="HTTP 404"):
            async with open_websocket(venue.url.replace("v9", "v1")):
                pass
        venue.rest_refusal = HttpAnswer(503, "busy")
        with pytest.raises(Unavailable, match="HTTP 503: busy"):
            await fetch(f"{venue.rest_url}/symbols")
        assert [request.path for request in venue.requests] == ["/symbols", "/other", "/v1", "/symbols"]


async def test_a_connection_carries_several_requests_and_survives_nonsense() -> None:
    async with open_fake_venue(Acme()) as venue:
        host, port = venue.rest_url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            for _ in range(2):
                await stream.send_all(b"GET /symbols?like=x HTTP/1.1\r\nHost: acme\r\n\r\n")
                answer = b""
                while b'["x"]' not in answer:
                    answer += bytes(await stream.receive_some())
            await stream.send_all(b"\x00\x01 nonsense\r\n\r\n")
            assert await stream.receive_some() == b""
        assert await fetch(f"{venue.rest_url}/symbols?like=y") == b'["y"]'


async def test_a_script_is_played() -> None:
    script = [(1.0, FakeWebSocketVenue.garbage), (1.1, FakeWebSocketVenue.disconnect)]  # connected by then
    async with open_fake_venue(Acme(), script=script) as venue, open_websocket(venue.url) as websocket:
        await connected(websocket)
        got: list[bytes] = []
        with trio.fail_after(30), pytest.raises(WebSocketClosed, match="1001 going away"):
            await receive_all(websocket, got)
        assert got == [b'{"this is": not JSON']


async def test_the_venue_of_the_how_to() -> None:
    """Its code and its test, as they stand there, with a session that reads until it is cut."""
    page = (Path(__file__).parents[2] / "docs/howto/fake-a-venue.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"<!-- tested -->\n```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)  # noqa: S102 - our own documentation
    got: list[bytes] = []

    class Session:
        def __init__(self, url: str) -> None:
            self.url = url
            self.lost = trio.Event()

        async def run(self) -> None:
            async with open_websocket(self.url) as websocket:
                await websocket.send('{"subscribe": "CHF/USD"}')
                await websocket.send('{"subscribe": "EUR/USD"}')
                with pytest.raises(Unavailable, match="connection lost"):
                    await receive_all(websocket, got)
                self.lost.set()

        async def wait_lost(self) -> None:
            await self.lost.wait()

    async with trio.open_nursery() as nursery:

        async def connect(url: str) -> Session:
            session = Session(url)
            nursery.start_soon(session.run)
            return session

        with trio.fail_after(30):
            await names["test_prices_arrive_and_a_reset_ends_the_session"](connect)
    assert b'{"error":"unknown symbol","symbol":"CHF/USD"}' in got
    assert got[-1] == b'{"symbol":"EUR/USD","bid":1.1,"ask":1.2}'
    headers = {"X-Key": "a-made-up-key"}
    with trio.fail_after(30):
        async with open_fake_http(names["FakeTide"]()) as tide, open_http(headers=headers) as http:
            tide.give(1.1)
            body = await http.fetch(f"{tide.url}/quotes/EURUSD", params={"after": "0"})
            assert body == b'{"symbol":"EURUSD","quotes":[1.1]}'
            assert await http.fetch(f"{tide.url}/beat", method="POST") == b'{"ok":true}'
            assert (await http.get(f"{tide.url}/symbols", headers={"X-Key": "other"})).status == 403
