"""Candles by subscription, over real sockets; what they hold is told in tests/unit/test_live_candles.py."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.model import US_PER_S, Candle

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
