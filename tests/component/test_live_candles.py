"""Candles by subscription, over real sockets; what they hold is told in tests/unit/test_live_candles.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from mdserver.errors import StoreUnavailable
from mdserver.model import US_PER_S, Candle
from mdserver.stream.live_candles import CandleKey, LiveCandles, StoredCandle
from mdserver.stream.router import Router

from .conftest import open_client, open_stream_server


@pytest.mark.parametrize("interval", [5, "7m", None, True, ["1m"], {}, "", "1M"])
async def test_a_wrong_interval_is_named(interval: Any) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        for action in ("subscribe", "unsubscribe"):
            error = await client.ask(
                {"action": action, "symbols": ["EURUSD"], "types": ["candle"], "interval": interval, "id": 1}
            )
            assert (error["type"], error["code"], error["id"]) == ("error", 400, 1)
            assert error["message"].startswith("interval: expected one of 1m, 5m")


async def test_without_storing_candles_are_refused_and_the_rest_is_served() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("EURUSD", types=["candle", "tick"])
        candle, tick = ack["results"]
        assert (candle["status"], candle["code"]) == ("error", 410)
        assert "database.store is off" in candle["message"]
        assert tick["status"] == "pending"


async def test_candles_of_a_venue_come_with_their_interval_and_number() -> None:
    async with (
        open_stream_server(types=("candle",)) as server,
        open_client(server.url) as client,
    ):
        ack = await client.subscribe("EURUSD", types=["candle"], interval="5m")
        assert ack["subscriptions"] == [
            {"broker": "one", "symbol": "EURUSD", "type": "candle", "interval": "5m"}
        ]
        await client.get()
        candle = Candle("EURUSD", 1_710_918_000 * US_PER_S, "5m", 1.5, 2.0, 1.0, 1.75, 3.0, 2, False)
        server.brokers["one"].publish(candle)
        got = await client.get()
        assert (got["interval"], got["seq"], got["open"], got["closed"]) == ("5m", 1, 1.5, False)
        ack = await client.ask(
            {"action": "unsubscribe", "symbols": ["EURUSD"], "types": ["candle"], "interval": "1m"}
        )
        assert len(ack["subscriptions"]) == 1  # another interval is another subscription


def made_candles(router: Router) -> LiveCandles:
    """Candles from a table that has one of every minute of every symbol but NONE."""

    async def read(keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        return {key: StoredCandle(1.0, 2.0, 0.5, 1.5, 3.0, 2) for key in keys if key.symbol != "NONE"}

    return LiveCandles(route=router.publish, read=read, barrier=lambda: lambda: True, grace_s=0.0)


async def test_a_snapshot_has_the_forming_candle_first_and_marked_also_for_the_first_subscriber() -> None:
    async with open_stream_server(candles=made_candles) as server, open_client(server.url) as client:
        request = {
            "action": "subscribe",
            "symbols": ["EURUSD", "NONE"],
            "types": ["candle"],
            "snapshot": True,
        }
        for request_id in (1, 2):  # again on a subscription that exists
            await client.send({**request, "id": request_id})
            before: list[dict[str, Any]] = []
            while (answer := await client.get()).get("id") != request_id:
                before.append(answer)
            marked = [one for one in before if one.get("snapshot")]
            assert {(one["type"], one["symbol"]) for one in marked} == {("candle", "EURUSD")}
            while request_id == 1 and answer["results"][0]["status"] != "active":
                answer = await client.get()


async def test_without_its_database_a_snapshot_of_candles_is_not_waited_for() -> None:
    async def read(_keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        raise StoreUnavailable("away")

    def away(router: Router) -> LiveCandles:
        return LiveCandles(
            route=router.publish, read=read, barrier=lambda: lambda: True, away=lambda: "the database is away"
        )

    async with open_stream_server(candles=away) as server, open_client(server.url) as client:
        await client.send(
            {"action": "subscribe", "symbols": ["EURUSD"], "types": ["candle"], "snapshot": True}
        )
        begun = time.monotonic()
        while (await client.get())["type"] != "ack":
            pass
        assert time.monotonic() - begun < 5
