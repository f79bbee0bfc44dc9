"""Clients that none of us wrote, Binance's own connector and ccxt, take the fake Binance for the real one."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from mdserver.testing.binance import FakeBinance, open_fake_binance

CLIENTS = Path(__file__).with_name("binance_clients.py")


async def run_client(venue: FakeBinance, which: str) -> dict[str, Any]:
    done = await trio.run_process(
        [sys.executable, CLIENTS, which, venue.url, venue.rest_url],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
async def test_binances_own_connector() -> None:
    with trio.fail_after(200):
        async with open_fake_binance() as venue:  # as it comes, without a script
            got = await run_client(venue, "connector")
            symbols = sorted(venue.instruments)
    assert got["errors"] == []
    left = ["btcusdt@depth@100ms", "ethbtc@depth5@100ms", "ethusdt@trade"]
    assert got["left"] == left
    assert got["streams"] == sorted([*left, "btcusdt@bookTicker"])
    assert abs(got["time"] / 1000 - time.time()) < 100
    assert got["symbols"] == symbols
    assert (got["depth"], got["klines"], got["agg_trades"], got["historical"]) == (100, 12, 7, 6)
    assert float(got["ticker"]) == pytest.approx(2456.78, rel=0.01)


@pytest.mark.slow
async def test_ccxt_loads_and_watches() -> None:
    with trio.fail_after(200):
        async with open_fake_binance() as venue:
            got = await run_client(venue, "ccxt")
            pairs = sorted(f"{base}/{quote}" for _, base, quote in venue.instruments.values())
    assert got["markets"] == pairs
    assert got["tick"] == 0.01
    assert abs(got["time"] / 1000 - time.time()) < 100
    assert got["trades"] == 50
    assert got["depth"] == 20
    assert got["candle"] == got["live_candle"] == 6
    assert all(bid < ask for bid, ask in got["books"])
    assert len({tuple(book) for book in got["books"]}) > 1
    assert got["live_trade"] in ("buy", "sell")
    assert got["live_bid"] == pytest.approx(1.087, rel=0.01)
    assert got["live_ticker"] == pytest.approx(0.12345, rel=0.01)
