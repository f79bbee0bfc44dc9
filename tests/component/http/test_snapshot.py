"""``GET /api/snapshot``: where symbols are now, from what was just published and what is stored."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.model import US_PER_S, Published, Tick, Topic
from mdserver.stream.live_candles import StoredCandle
from mdserver.web.api.dependencies import SourceInfo
from mdserver.web.api.params import MAX_SYMBOLS

from .conftest import Series

T0 = 1_710_892_800
"""Midnight."""


async def test_it_is_made_of_the_last_records_and_the_forming_candles(site: Any) -> None:
    site.now_s = T0 + 3_661
    for row in site.store.rows:
        row.latest_us = (T0 + 500) * US_PER_S
    forming = {
        ("EURUSD", 60, T0 + 3_660): StoredCandle(1.5, 1.6, 1.4, 1.55, 0.0, 3),
        ("EURUSD", 86_400, T0): StoredCandle(1.0871, 1.6, 1.0, 1.087, 12.5, 99),
    }
    site.store.forming = forming
    document = await (await site.get("/api/snapshot?symbols=EUR/USD,xauusd")).get_json()
    assert set(document) == {"EURUSD", "XAUUSD"}
    euro = document["EURUSD"]
    assert (euro["broker"], euro["trade"]["type"], euro["trade"]["broker"]) == ("binance", "trade", "binance")
    assert (euro["tick"]["type"], euro["tick"]["broker"], "bid" in euro["tick"]) == ("tick", "binance", True)
    assert euro["candles"]["1m"]["time"] == T0 + 3_660
    assert euro["candles"]["1d"] == {
        "time": T0,
        "open": 1.0871,
        "high": 1.6,
        "low": 1.0,
        "close": 1.087,
        "volume": 12.5,
        "count": 99,
    }
    assert (euro["change"], euro["change_percent"]) == (-0.0001, -0.0092)
    gold = document["XAUUSD"]
    assert (gold["broker"], gold["trade"], gold["change"]) == ("dukascopy", None, None)
    assert gold["tick"]["time"] == T0 + 500
    del forming["EURUSD", 60, T0 + 3_660]
    del forming["EURUSD", 86_400, T0]
    (quiet,) = (await (await site.get("/api/snapshot?symbols=EURUSD&broker=oanda")).get_json()).values()
    assert (quiet["candles"], quiet["change"]) == ({"1m": None, "1d": None}, None)


@pytest.mark.parametrize(
    "other", [Series(9, "mock", "XAUUSD", "trade"), Series(9, "binance", "XAUUSD", "trade", row_count=0)]
)
async def test_trades_that_cannot_answer_are_as_good_as_none(make_site: Any, other: Series) -> None:
    """Those of a mock beside real prices, and those of a broker that has had none yet."""
    site = make_site()
    site.sources.append(SourceInfo("mock", symbols=("XAUUSD",), synthetic=True))
    site.store.rows.append(other)
    for row in site.store.rows:
        row.latest_us = (T0 + 500) * US_PER_S
    document = await (await site.get("/api/snapshot?symbols=XAUUSD,EURUSD")).get_json()
    gold = document["XAUUSD"]
    assert (gold["broker"], gold["tick"]["broker"], gold["trade"]) == ("dukascopy", "dukascopy", None)


async def test_what_was_just_published_is_newer_than_what_is_stored(make_site: Any) -> None:
    topic = Topic("oanda", "EURUSD", "tick")
    last = Published(topic, 77, Tick("EURUSD", (T0 + 9) * US_PER_S, 5.0, 6.0))
    site = make_site(last={topic: last}.get)
    document = await (await site.get("/api/snapshot?symbols=EURUSD&broker=oanda")).get_json()
    assert document["EURUSD"]["tick"] == {
        "type": "tick",
        "broker": "oanda",
        "symbol": "EURUSD",
        "seq": 77,
        "time": T0 + 9,
        "bid": 5,
        "ask": 6,
    }


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "missing_parameter"),
        ("symbols=", 400, "missing_parameter"),
        ("symbols=EURUSD,,", 400, "invalid_parameter"),
        ("symbols=NOTHING", 404, "unknown_symbol"),
        ("symbols=EURUSD&broker=nobody", 404, "unknown_symbol"),
        ("symbols=EURUSD&symbol=x", 400, "invalid_parameter"),
        ("symbols=" + ",".join(f"A{n}" for n in range(MAX_SYMBOLS + 1)), 400, "range_too_large"),
    ],
)
async def test_bad_input(site: Any, query: str, status: int, code: str) -> None:
    response = await site.get(f"/api/snapshot?{query}")
    assert (response.status_code, (await response.get_json(force=True))["code"]) == (status, code)
