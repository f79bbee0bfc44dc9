"""Recorded lines of the real venue through the real plugin, over a real socket: every number."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mdserver.model import Feed, Tick
from mdserver.testing.host import FakeHost
from mdserver.testing.oanda import FakeInstrument, FakeOanda, FakeQuote
from mdserver.testing.recorded import recorded_folder
from mdserver_oanda.codec import decode_candles, decode_instruments

from .conftest import Start

pytestmark = pytest.mark.recorded

STREAMS = {
    "hootnot+oanda-api-v20/stream_2016-10-27.jsonl": (3, 1),
    "hootnot+oanda-api-v20/transaction_heartbeats_2017-03-09.jsonl": (0, 4),
    "jamespeterschinner+async_v20/stream_unix_2018-01-02.jsonl": (1, 1),
    "kobusjoubert+oanda_api_v20/stream_chunk_2019-01-31.bin": (2, 0),
    "quoted-public-files/oanda_docs_stream_2016-09-20.jsonl": (4, 1),
    "quoted-public-files/oanda_stream_edge.jsonl": (1, 0),
}
"""File, and how many ticks and heartbeats it holds."""


def load(name: str) -> bytes:
    folder = recorded_folder()
    if folder is None:
        pytest.skip("no folder of recorded venue data: name it in MDSERVER_RECORDED_DATA")
    path: Path = folder / name
    if not path.exists():
        pytest.skip(f"{name} is not among the recorded data")
    return path.read_bytes()


def expected(rows: list[dict[str, Any]]) -> list[Tick]:
    """Read the lines in the plainest way: json, Decimal, max and min."""
    ticks = []
    for row in rows:
        if row.get("type") == "HEARTBEAT" or not row.get("tradeable", True):
            continue
        bid = max(row["bids"], key=lambda level: Decimal(level["price"]))
        ask = min(row["asks"], key=lambda level: Decimal(level["price"]))
        ticks.append(
            Tick(
                row["instrument"].replace("_", ""),
                time_us(row["time"]),
                float(bid["price"]),
                float(ask["price"]),
                float(bid["liquidity"]),
                float(ask["liquidity"]),
            )
        )
    return ticks


def time_us(text: str) -> int:
    if "T" not in text:
        return int(Decimal(text) * 10**6)
    from datetime import datetime

    whole, fraction = text.removesuffix("Z").split(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**6 + int(fraction[:6])


@pytest.mark.parametrize("size", [1, 13, 10_000])
@pytest.mark.parametrize("name", STREAMS)
async def test_every_price_arrives_however_the_stream_is_cut(
    venue: FakeOanda, start: Start, name: str, size: int
) -> None:
    data = load(name)
    rows = [json.loads(line) for line in data.splitlines() if line.strip()]
    ticks = expected(rows)
    heartbeats = sum(row.get("type") == "HEARTBEAT" for row in rows)
    assert (len(ticks), heartbeats) == STREAMS[name]
    names = {row["instrument"] for row in rows if "instrument" in row} or {"EUR_USD"}
    # The venue's own snapshot must add nothing to what was recorded.
    no_tick = FakeQuote(tradeable=False)
    venue.instruments = {each: attrs.evolve(FakeInstrument(each)) for each in names}
    for instrument in venue.instruments.values():
        instrument.quote = no_tick
    host = FakeHost({Feed(each.replace("_", ""), "tick") for each in names})
    await start(host)
    [stream] = await venue.wait_streams(1)
    stream.mute()
    await host.wait_until(lambda: host.ignored_kinds["non-tradeable price"] == len(names))
    alive = host.alive_count
    await stream.send(data if data.endswith(b"\n") else data + b"\n", range(0, len(data), size))
    stale = sum(row.get("tradeable") is False for row in rows)
    with trio.fail_after(30):
        await host.wait_until(
            lambda: (
                len(host.records) == len(ticks)
                and host.ignored_kinds["non-tradeable price"] == len(names) + stale
                and host.alive_count - alive >= heartbeats
            )
        )
    assert host.records == ticks
    assert not host.discarded


@pytest.mark.parametrize(
    ("name", "count"),
    [("hootnot+oanda-api-v20/candles_M5_5.json", 5), ("hootnot+oanda-api-v20/candles_hist_2.json", 10)],
)
def test_recorded_candles(name: str, count: int) -> None:
    body = load(name)
    rows = json.loads(body)["candles"]
    candles = decode_candles(body).candles
    assert len(rows) == count
    for row, candle in zip(rows, candles, strict=True):
        assert candle.mid is not None
        assert (candle.complete, candle.volume) == (row["complete"], row["volume"])
        assert candle.time_ns == time_us(row["time"]) * 1000
        assert {key: getattr(candle.mid, key) for key in "ohlc"} == {
            key: float(value) for key, value in row["mid"].items()
        }


@pytest.mark.parametrize(
    "name", ["hootnot+oanda-api-v20/instruments_6.json", "jamespeterschinner+async_v20/instruments.json"]
)
def test_recorded_instruments(name: str) -> None:
    body = load(name)
    rows = json.loads(body)["instruments"]
    table = decode_instruments(body)
    assert [row.venue_symbol for row in table] == [row["name"] for row in rows]
    assert all(f"{row.base}_{row.quote}" == row.venue_symbol and row.quote for row in table)
