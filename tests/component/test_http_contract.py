"""What the HTTP interface promises, over real sockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mdserver.feed.broker_state import State
from mdserver.web.api.dependencies import SourceInfo

from .conftest import HttpAnswer, StreamServer, http_get, open_stream_server
from .http.conftest import FakeStore, Series

T0 = 1_710_892_800
HOUR = 3_600
CANDLES = f"/api/candles?symbol=EURUSD&from={T0}&to={T0 + 9 * HOUR}"


@asynccontextmanager
async def site(**services: Any) -> AsyncIterator[StreamServer]:
    given = {"store": FakeStore([Series(1, "oanda", "EURUSD", "tick")]), "now_us": lambda: T0 * 10**6}
    async with open_stream_server(["oanda", "kraken"], services=given | services) as server:
        yield server


def problem(answer: HttpAnswer, status: int, code: str, param: str | None) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status, document["code"], document["param"]) == (status, code, param)
    return str(document["detail"])


async def test_timeframe_is_an_hour_by_default() -> None:
    async with site() as server:
        default = await http_get(server.port, CANDLES)
        assert default.status == 200
        assert len(default.json()) == 10
        assert default.body == (await http_get(server.port, CANDLES + "&timeframe=1h")).body


@pytest.mark.parametrize(
    "path", [CANDLES, f"/api/ticks?symbol=EURUSD&from={T0}&to={T0}", "/api/metadata", "/api/brokers"]
)
async def test_what_browsers_and_links_add_changes_nothing(path: str) -> None:
    async with site() as server:
        plain = await http_get(server.port, path)
        mark = "&" if "?" in path else "?"
        added = await http_get(server.port, path + mark + "_=1710918000&_=2&utm_source=mail&utm_campaign=")
        assert (added.status, added.body) == (200, plain.body)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("symbl", "symbol"), ("time_frame", "timeframe"), ("Broker", "broker"), ("form", "format")],
)
async def test_an_unknown_parameter_names_the_nearest(given: str, nearest: str) -> None:
    async with site() as server:
        answer = await http_get(server.port, f"{CANDLES}&{given}=1")
        assert f"did you mean {nearest}?" in problem(answer, 400, "invalid_parameter", given)
        answer = await http_get(server.port, f"{CANDLES}&zzz=1")
        assert "did you mean" not in problem(answer, 400, "invalid_parameter", "zzz")


async def states_are(server: StreamServer, **wanted: str) -> None:
    for name, state in wanted.items():
        history = server.supervisor.brokers[name]._history
        history.state = State(state)
        history.note_error("unavailable", "connecting to 10.0.0.9 with key hunter2 failed")


async def test_ready_says_degraded_while_a_broker_is_not_live() -> None:
    async with site() as server:
        with trio.fail_after(30):
            while (answer := await http_get(server.port, "/health/ready")).json() != {"status": "ready"}:
                await trio.sleep(0.01)
        assert answer.status == 200
        await states_are(server, kraken="backoff")
        answer = await http_get(server.port, "/health/ready")
        assert answer.status == 200
        assert answer.json() == {"status": "degraded", "reasons": ["broker kraken is backoff"]}


async def test_ready_is_not_where_every_broker_failed_and_shows_no_secret() -> None:
    async with site() as server:
        await states_are(server, oanda="failed", kraken="failed")
        answer = await http_get(server.port, "/health/ready")
        detail = problem(answer, 503, "unavailable", None)
        assert "every broker has failed: oanda, kraken" in detail
        assert not re.search(rb"10\.0\.0\.9|hunter2", answer.body)


async def test_feeds_are_those_wanted_and_active_those_confirmed() -> None:
    async with site() as server:
        demand = server.supervisor.brokers["oanda"].demand
        server.brokers["oanda"].silent.add("GBPUSD")
        from mdserver.model import Feed

        for symbol in ("EURUSD", "GBPUSD"):
            demand.hold(Feed(symbol, "tick"))
        with trio.fail_after(30):
            while demand.count() < 1:
                await trio.sleep(0.01)
        (oanda, kraken) = (await http_get(server.port, "/api/brokers")).json()["brokers"]
        assert (oanda["feeds"], oanda["active"]) == (2, 1)
        assert (kraken["feeds"], kraken["active"]) == (0, 0)


async def test_a_configured_symbol_is_known_before_its_first_record() -> None:
    sources = [SourceInfo("kraken", "trade", ("BTCUSD",), ("tick", "trade")), SourceInfo("oanda")]
    async with site(sources=lambda: sources) as server:
        answer = await http_get(server.port, f"/api/candles/BTC-USD/1h?from={T0}&to={T0 + HOUR}")
        assert (answer.status, answer.json(), answer.headers["x-broker"]) == (200, [], "kraken")
        assert answer.headers["cache-control"] == "no-cache"
        assert "x-available-from" not in answer.headers
        for kind in ("ticks", "trades"):
            answer = await http_get(server.port, f"/api/{kind}?symbol=BTCUSD&from={T0}&to={T0 + HOUR}")
            assert (answer.status, answer.json()[kind], answer.json()["next_cursor"]) == (200, [], None)
        answer = await http_get(server.port, "/api/metadata?symbol=BTCUSD")
        empty = {"earliest": None, "latest": None, "tick_count": 0, "trade_count": 0}
        assert answer.status == 200
        assert answer.json()["brokers"] == [{"broker": "kraken"} | empty]
        assert {key: answer.json()[key] for key in empty} == empty
        everything = (await http_get(server.port, "/api/metadata")).json()["symbols"]
        assert {"symbol": "BTCUSD"} | empty in everything
        problem(await http_get(server.port, "/api/metadata?symbol=BTCEUR"), 404, "unknown_symbol", "symbol")


async def test_the_next_page_is_found_behind_a_path_prefix() -> None:
    async with site() as server:
        first = await http_get(server.port, f"/api/ticks?symbol=EURUSD&from={T0}&to={T0 + 9}&limit=3&_=5")
        link = first.headers["link"]
        match = re.fullmatch(
            r'<(\?[^>]+)>; rel="next"', link
        )  # a query: relative to wherever the page was asked
        assert match is not None, link
        second = await http_get(server.port, "/api/ticks" + match[1])
        assert [tick["seq"] for tick in second.json()["ticks"]] == [4, 5, 6]


async def test_metrics_have_no_created_lines() -> None:
    async with site() as server:
        await http_get(server.port, "/api/brokers")
        text = (await http_get(server.port, "/metrics")).body.decode()
        assert "mdserver_http_requests_total" in text
        assert "_created" not in text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_stream_over_plain_http_says_that_it_is_a_websocket(method: str) -> None:
    async with site() as server:
        answer = await http_get(server.port, "/stream", method)
        assert answer.status == 426
        assert answer.headers["upgrade"] == "websocket"
        if method == "GET":
            assert "WebSocket" in problem(answer, 426, "invalid_request", None)


class FrozenStore(FakeStore):
    """A database that never answers."""

    async def series(self, symbol: str | None = None) -> Any:
        await trio.sleep_forever()


async def test_a_frozen_database_is_a_503_in_time() -> None:
    async with site(store=FrozenStore([]), answer_s=0.2) as server:
        for path in (CANDLES, f"/api/trades?symbol=EURUSD&from={T0}&to={T0}", "/api/metadata"):
            with trio.fail_after(30):
                answer = await http_get(server.port, path)
            assert "not answered within 0.2 s" in problem(answer, 503, "unavailable", None)
            assert answer.headers["retry-after"] == "5"
        assert (await http_get(server.port, "/health/live")).status == 200
