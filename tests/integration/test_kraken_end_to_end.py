"""From the venue's socket to a client's: a fake Kraken, the real plugin in a real daemon, a WebSocket client."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import trio

from mdserver.net import open_websocket
from mdserver.testing.kraken import KrakenRules, open_fake_kraken

from .daemon import open_daemon, write_config


async def test_ticks_trades_and_books_reach_a_client_and_a_jump_of_ids_is_a_gap(folder: Path) -> None:
    async with open_fake_kraken(KrakenRules(pace_s=math.inf)) as venue:
        broker = {
            "name": "kraken",
            "url": venue.url,
            "rest_url": venue.rest_url,
            "symbols": ["BTCUSD"],
            "types": ["tick", "trade", "orderbook"],
        }
        config = write_config(folder, brokers=[broker], database={"store": False})
        async with (
            open_daemon(config) as daemon,
            open_websocket(daemon.ws) as client,
        ):
            request = {"action": "subscribe", "symbols": ["BTC/USD"], "types": broker["types"], "depth": 25}
            await client.send(json.dumps(request))
            seen: list[dict[str, Any]] = []
            with trio.fail_after(60):
                while not any(message["type"] == "ack" for message in seen):
                    seen += map(json.loads, await client.receive())
                topics = {"ticker:BTC/USD:bbo", "trade:BTC/USD", "book:BTC/USD:25"}
                await venue.wait_until(lambda: topics <= venue.topics)
                for _ in range(40):
                    venue.step("BTC/USD")
                first = venue.trade("BTC/USD", 2)[0]
                last = venue.trade("BTC/USD", 1, skip_ids=4)[0]
                while not any(message.get("trade_id") == str(last.trade_id) for message in seen):
                    seen += map(json.loads, await client.receive())
    gap = next(n for n, message in enumerate(seen) if message["type"] == "gap")
    assert (seen[gap]["record_type"], seen[gap]["cause"]) == ("trade", "missed")
    ids = [int(message["trade_id"]) for message in seen if message["type"] == "trade"]
    assert ids[-3:] == [first.trade_id, first.trade_id + 1, last.trade_id]
    for kind in ("tick", "trade", "orderbook"):
        numbers = [message["seq"] for message in seen if message["type"] == kind]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    book = [message for message in seen if message["type"] == "orderbook"][-1]
    bids, asks = venue.markets["BTC/USD"].window(25)
    assert book["bids"] == [[price / 10, size / 10**8] for price, size in bids.items()]
    assert book["asks"] == [[price / 10, size / 10**8] for price, size in asks.items()]
    tick = [message for message in seen if message["type"] == "tick"][-1]
    assert [tick["bid"], tick["ask"]] == [book["bids"][0][0], book["asks"][0][0]]
