"""A venue of one's own on the generic one over HTTP, and what that one can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.net import HttpStream, open_http, open_http_stream
from mdserver.testing.http_venue import (
    ConnectLimit,
    FakeExchange,
    FakeHttpVenue,
    HttpAnswer,
    HttpFault,
    open_fake_http,
)


class FakeAcme:
    """A third party's venue: a key, a list, a snapshot and prices."""

    def __init__(self, http: FakeHttpVenue) -> None:
        self.http = http
        self.prices = {"EURUSD": 1.1, "USDJPY": 150.0}
        http.gate = self.check_key
        http.route("/symbols", self.list_symbols)
        http.route("/prices/{symbol}", self.stream_prices)

    def check_key(self, exchange: FakeExchange) -> HttpAnswer | None:
        known = exchange.request.headers.get("x-key") == "k"
        return None if known else HttpAnswer(401, {"error": "no such key"})

    async def list_symbols(self, exchange: FakeExchange) -> None:
        await exchange.respond(content=sorted(self.prices))

    async def stream_prices(self, exchange: FakeExchange) -> None:
        symbol = exchange.params["symbol"]
        await exchange.start_stream(msgspec.json.encode({"price": self.prices[symbol]}) + b"\n")
        await exchange.wait_gone()

    async def push(self, symbol: str, price: float) -> None:
        await self.http.push(msgspec.json.encode({"price": price}) + b"\n", f"/prices/{symbol}")


@asynccontextmanager
async def open_fake_acme() -> AsyncIterator[FakeAcme]:
    with trio.fail_after(30):
        async with open_fake_http() as http:
            yield FakeAcme(http)


async def read_lines(stream: HttpStream, count: int) -> list[bytes]:
    lines: list[bytes] = []
    while len(lines) < count:
        lines += await stream.receive_lines()
    return lines


async def test_a_third_partys_venue() -> None:
    async with open_fake_acme() as acme, open_http(headers={"X-Key": "k"}) as http:
        assert await http.fetch(f"{acme.http.url}/symbols") == b'["EURUSD","USDJPY"]'
        assert (await http.get(f"{acme.http.url}/symbols", headers={"X-Key": "l"})).status == 401
        async with open_http_stream(f"{acme.http.url}/prices/EURUSD", headers={"X-Key": "k"}) as stream:
            await acme.http.wait_streams(1, "/prices/")
            await acme.push("USDJPY", 151.0)
            await acme.push("EURUSD", 1.2)
            assert await read_lines(stream, 2) == [b'{"price":1.1}', b'{"price":1.2}']
        await acme.http.wait_streams(0)
        assert [request.path for request in acme.http.requests] == ["/symbols", "/symbols", "/prices/EURUSD"]


async def test_faults_are_used_up_in_order_and_healed() -> None:
    async with open_fake_http({"/a": b"a", "/b": b"b"}) as venue, open_http() as http:
        venue.fail(HttpFault("status", 500), times=1, path="/a")
        venue.fail(HttpFault("status", 429, {"m": 1}, {"Retry-After": "2"}), path="/a")
        assert [(await http.get(f"{venue.url}/{name}")).status for name in "abaa"] == [500, 200, 429, 429]
        venue.heal()
        assert (await http.get(f"{venue.url}/a")).body == b"a"
        assert (await http.get(f"{venue.url}/c")).status == 404


async def test_connections_beyond_the_limit_are_reset() -> None:
    async with open_fake_http({"/a": b"a"}, limit=ConnectLimit(2, 60.0)) as venue:
        for _ in range(2):
            async with open_http() as http:
                await http.fetch(f"{venue.url}/a")
        async with open_http() as http:
            try:
                await http.fetch(f"{venue.url}/a")
            except Unavailable:
                assert venue.limit is not None
                assert venue.limit.refused == 1
            else:
                raise AssertionError("a third connection was served")


async def test_a_client_that_talks_no_http_ends_only_its_own_connection() -> None:
    async with open_fake_http({"/a": b"a"}) as venue, open_http() as http:
        port = int(venue.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"\x16\x03\x01\r\n\r\n")
            while await stream.receive_some():
                pass
        assert await http.fetch(f"{venue.url}/a") == b"a"


async def test_a_push_to_a_stream_that_is_ending_reaches_the_others_and_harms_nobody() -> None:
    async with open_fake_acme() as acme, open_http(headers={"X-Key": "k"}) as http:
        url = f"{acme.http.url}/prices/EURUSD"
        async with (
            open_http_stream(url, headers={"X-Key": "k"}) as one,
            open_http_stream(url, headers={"X-Key": "k"}) as other,
        ):
            first, second = await acme.http.wait_streams(2)
            await first.end()
            with pytest.raises(trio.ClosedResourceError):
                await first.send(b"late\n")
            await second.reset()
            with pytest.raises(trio.ClosedResourceError):
                await second.send(b"late\n")
            assert await acme.http.push(b"x\n") == 0
            assert await read_lines(one, 1) == [b'{"price":1.1}']
            for stream in (one, other):
                with pytest.raises(Unavailable):
                    await read_lines(stream, 9)
        assert (await http.get(f"{acme.http.url}/symbols")).status == 200


class Tide(FakeHttpVenue):
    """State of its own, a long poll, a request that is no GET."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[int] = []
        self.beats = 0
        self.route("/news", self.poll)
        self.route("/beat", self.beat, method="POST")

    async def poll(self, exchange: FakeExchange) -> object:
        await self.hold(exchange, lambda: bool(self.news), float(exchange.request.query["most_s"]))
        return self.news

    def beat(self, exchange: FakeExchange) -> HttpAnswer | None:
        self.beats += 1
        return HttpAnswer(204)


async def test_a_subclass_is_served_and_what_a_route_returns_is_the_answer() -> None:
    with trio.fail_after(30):
        async with open_fake_http(Tide()) as tide, open_http() as http:
            assert (await http.request("POST", f"{tide.url}/beat")).status == 204
            assert tide.beats == 1
            assert (await http.get(f"{tide.url}/beat")).headers["Allow"] == "POST"


async def test_a_long_poll_ends_with_news_with_time_and_with_the_client() -> None:
    with trio.fail_after(30):
        async with open_fake_http(Tide()) as tide, open_http() as http, trio.open_nursery() as nursery:
            assert await http.fetch(f"{tide.url}/news", params={"most_s": "0.01"}) == b"[]"
            with trio.move_on_after(0.05):
                await http.fetch(f"{tide.url}/news", params={"most_s": "60"})
            await tide.wait_until(lambda: not tide.exchanges)  # the client has gone

            async def give() -> None:
                await tide.wait_until(lambda: bool(tide.exchanges))
                tide.news.append(7)
                tide.tell()

            nursery.start_soon(give)
            assert await http.fetch(f"{tide.url}/news", params={"most_s": "60"}) == b"[7]"
            assert await http.fetch(f"{tide.url}/news", params={"most_s": "60"}) == b"[7]"  # kept alive
