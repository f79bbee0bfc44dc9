"""A client that none of us wrote takes the fake Kraken for the real one."""

import json
import sys
import time
from pathlib import Path

import pytest
import trio

from mdserver.testing.kraken import PAIRS, KrakenRules, open_fake_kraken

CLIENT = Path(__file__).with_name("ccxt_kraken_client.py")


@pytest.mark.slow
async def test_ccxt_loads_and_watches() -> None:
    rules = KrakenRules(rest_burst=100)
    with trio.fail_after(200):
        async with open_fake_kraken(rules) as venue:
            done = await trio.run_process(
                [sys.executable, CLIENT, venue.url, venue.rest_url],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr.decode()
    got = json.loads(done.stdout)
    assert got["markets"] == sorted(pair.symbol for pair in PAIRS)
    assert set(got["currencies"]) == {name for pair in PAIRS for name in (pair.base, pair.quote)}
    assert got["status"] == "ok"
    assert abs(got["time"] / 1000 - time.time()) < 100
    assert got["trades"] > 100
    assert got["depth"] == 20
    assert got["candle"] == got["live_candle"] == 6
    assert all(bid < ask and bids == asks == 10 for bid, ask, bids, asks in got["books"])
    assert len({tuple(book) for book in got["books"]}) > 1
    assert got["live_trade"] in ("buy", "sell")
    assert got["ticker"] == pytest.approx(got["live_ticker"], rel=0.01)
    assert got["live_bid"] == pytest.approx(1.087, rel=0.01)
