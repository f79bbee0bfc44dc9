"""Candles of the venue in place of ticks that cannot be had: stored, told apart, folded, and sent as revised."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from mdserver.model import US_PER_S, Candle, Published, Tick
from mdserver.net import open_websocket
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver.store.upkeep.delete_rows import Range, delete_rows
from mdserver.store.upkeep.rebuild_candles import refresh
from mdserver.testing.oanda import FakeQuote, OandaRules, open_fake_oanda

from .daemon import open_daemon, write_config
from .test_backfill import run_command
from .test_reload import Watching
from .test_write_batch import EURUSD, START_US, rows

MINUTE_US = 60 * US_PER_S
DAY_US = 86_400 * US_PER_S
FIRST_US = START_US // DAY_US * DAY_US + 600 * MINUTE_US

CANDLES = """select (extract(epoch from time))::bigint, open, high, low, close, row_count from candles
    where timeframe = {} order by time"""


def tick(at_us: int, price: float) -> Tick:
    return Tick("EURUSD", at_us, price, price)


def minute(number: int, price: float, count: int = 7) -> Candle:
    at_us = FIRST_US + number * MINUTE_US
    return Candle(
        "EURUSD", at_us, "1m", price, price + 0.2, price - 0.2, price + 0.1, 0.0, count, closed=True
    )


@pytest.mark.both_engines
async def test_they_fill_minutes_without_rows_and_are_folded_with_those_that_have_some(
    database: Database,
) -> None:
    store = Store(database)
    ticks = [tick(FIRST_US, 1.0), tick(FIRST_US + 4 * MINUTE_US + 1, 1.5)]
    await store.write([Published(EURUSD, n + 1, one) for n, one in enumerate(ticks)])
    missed = [minute(0, 9.0), minute(1, 1.1), minute(3, 1.3)]
    opens = [FIRST_US + n * MINUTE_US for n in (1, 3)]
    assert (
        await store.add_missed_candles(EURUSD, missed) == opens
    )  # the minute of the first tick is that tick's
    assert await store.add_missed_candles(EURUSD, missed) == []
    first_s = FIRST_US // US_PER_S
    found = await rows(database, CANDLES.format(60))
    assert found == [
        (first_s, 1.0, 1.0, 1.0, 1.0, 1),
        (first_s + 60, 1.1, 1.1 + 0.2, 1.1 - 0.2, 1.1 + 0.1, 7),
        (first_s + 180, 1.3, 1.3 + 0.2, 1.3 - 0.2, 1.3 + 0.1, 7),
        (first_s + 240, 1.5, 1.5, 1.5, 1.5, 1),
    ]
    assert await rows(database, CANDLES.format(300)) == [(first_s, 1.0, 1.5, 1.1 - 0.2, 1.5, 16)]
    (series,) = await store.series()
    assert series.row_count == 2
    (done,) = await refresh(database)  # they are no candles without rows
    assert (done.candles, done.metadata) == (0, False)
    await store.add_missed(EURUSD, [tick(opens[0] + 5, 1.2)])  # rows win
    assert (await rows(database, CANDLES.format(60)))[1] == (first_s + 60, 1.2, 1.2, 1.2, 1.2, 1)
    assert (await refresh(database))[0].candles == 0
    await delete_rows(database, Range(EURUSD.broker))
    assert await rows(database, "select count(*) from venue_candles") == [(0,)]
    assert await rows(database, CANDLES.format(60)) == []


async def test_a_gap_of_oanda_gets_the_venues_candles_and_clients_get_them_as_revised(folder: Path) -> None:
    async with open_fake_oanda(OandaRules(price_every_s=None, max_connects=1000)) as venue:
        broker = {
            "name": "oanda",
            "url": venue.url,
            "rest_url": venue.rest_url,
            "account_id": venue.account_id,
            "api_key": venue.api_key,
            "symbols": ["EURUSD"],
            "backoff": {"first_s": 0.1, "most_s": 0.2},
        }
        config = write_config(folder, brokers=[broker], database={"flush_ms": 20})
        now_s = int(time.time())
        first_s = now_s // 60 * 60 - 1200
        async with open_daemon(config) as daemon, open_websocket(daemon.ws) as ws:
            client = Watching(ws)
            await client.subscribe("EURUSD", types=["candle"], interval="1m")

            async def push(at_s: float) -> None:
                await venue.wait_streams(1, "EUR_USD")
                await venue.push("EUR_USD", FakeQuote(time_ns=int(at_s * 1e9)))

            # what a new stream begins with is the last price: so that it lies where the test wants it
            await push(first_s + 1)
            await daemon.wait_stored("EURUSD", 1)
            (stream,) = venue.streams
            await stream.reset()
            with trio.fail_after(60):
                while venue.streams == [stream] or not venue.streams:
                    await trio.sleep(0.02)
            await push(now_s)
            with trio.fail_after(60):
                gaps: list[dict[str, Any]] = []
                while not any(gap["to"] == now_s for gap in gaps):
                    gaps = (await daemon.get("/api/gaps", symbol="EURUSD")).json()["gaps"]
                    await trio.sleep(0.05)
            code, output, errors = await run_command(config, "backfill", "--json")
            result = json.loads(output)
            assert (code, result["permanent"], result["open"], result["records"]) == (0, len(gaps), 0, 0), (
                errors
            )
            assert "OANDA gives candles in place of ticks" in result["gaps"][-1]["why"]
            instrument = venue.instruments["EUR_USD"]
            whole = now_s // 60 * 60
            made = instrument.candles(60, (first_s + 60) * 10**9, whole * 10**9, now_s * 10**9)
            expected = [
                {
                    "time": c.time_ns // 10**9,
                    **{k: getattr(c, k) / 1e5 for k in ("open", "high", "low", "close")},
                }
                for c in made
            ]
            assert result["candles"] == len(expected) >= 15
            query = {"symbol": "EURUSD", "timeframe": "1m", "from": first_s + 60, "to": whole - 1}
            got = (await daemon.get("/api/candles", **query)).json()
            assert [{k: one[k] for k in expected[0]} for one in got] == expected
            last = expected[-1]["time"]
            seen = await client.until(lambda m: m["type"] == "candle" and m["time"] == last)
            assert (seen[-1]["revised"], seen[-1]["closed"], seen[-1]["close"]) == (
                True,
                True,
                expected[-1]["close"],
            )
            assert await daemon.stop() == 0
