"""Real files: every recorded hour and candle file, against sums made elsewhere and against others' decoders."""

from __future__ import annotations

import csv
import datetime
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import trio

from mdserver.model import TickColumns
from mdserver.plugin import HistoryHost
from mdserver.testing.dukascopy import Fault, FaultKind, open_fake_dukascopy
from mdserver.testing.recorded import recorded_folder
from mdserver_dukascopy import (
    DukascopyConfig,
    DukascopySource,
    codec,
    instruments,
    jetta,
    open_source,
)

pytestmark = pytest.mark.recorded

FOLDER = recorded_folder()
INDEX = FOLDER.parent / "index.json" if FOLDER else None
ENTRIES: list[dict[str, Any]] = json.loads(INDEX.read_text()) if INDEX and INDEX.exists() else []
NODE = "Leo4815162342+dukascopy-node"
BTC_HOUR_US = 1_676_894_400_000_000  # 2023-02-20 12:00 UTC


def entries(kind: str) -> list[Any]:
    """The bi5 files of a kind, as test parameters; one that skips where there is no recorded data."""
    found = [e for e in ENTRIES if e["file"].endswith(".bi5") and (e.get("facts") or {}).get("kind") == kind]
    if not found:
        reason = "no recorded data: set MDSERVER_RECORDED_DATA to their folder"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(e, id=e["file"].removeprefix("recorded/")) for e in found]


@pytest.fixture
def folder() -> Path:
    if FOLDER is None or not ENTRIES:
        pytest.skip("no recorded data: set MDSERVER_RECORDED_DATA to their folder")
    return FOLDER


def body_of(entry: dict[str, Any], folder: Path) -> bytes:
    return (folder.parent / entry["file"]).read_bytes()


def hour_us(text: str) -> int:
    time = datetime.datetime.fromisoformat(text).replace(minute=0, second=0, microsecond=0)
    return round(time.timestamp()) * 1_000_000


def test_nothing_is_left_out(folder: Path) -> None:
    counts = [e.values[0]["facts"]["count"] for e in entries("ticks")]
    assert (len(counts), sum(counts), counts.count(0)) == (59, 268_313, 1)
    assert len(entries("candles")) == 25


@pytest.mark.parametrize("entry", entries("ticks"))
def test_each_hour_of_ticks(entry: dict[str, Any], folder: Path) -> None:
    facts = entry["facts"]
    start_us = hour_us(facts["first"]["utc"]) if "utc" in facts.get("first", {}) else 0
    ticks = codec.decode_ticks(body_of(entry, folder), entry["file"], start_us, 0)
    ms = (ticks.time_us - start_us) // 1_000
    assert len(ms) == facts["count"]
    if not facts["count"]:
        return
    sums = [int(column.sum()) for column in (ms, ticks.ask, ticks.bid)]
    assert sums == [facts["sum_ms"], facts["sum_ask"], facts["sum_bid"]]
    for row, name in ((0, "first"), (-1, "last")):
        edge = facts[name]
        assert (ms[row], ticks.ask[row], ticks.bid[row]) == (edge["ms"], edge["ask"], edge["bid"])
        assert ticks.ask_size[row] == round(edge["ask_vol"] * 1e6)
        assert ticks.bid_size[row] == round(edge["bid_vol"] * 1e6)
    if "utc" in facts["first"]:
        priced = codec.decode_ticks(
            body_of(entry, folder), "", start_us, instruments.Instruments().find(entry["inst"]).decimals
        )
        assert priced.ask[0] == facts["first"]["ask_price"]
        assert priced.bid[-1] == facts["last"]["bid_price"]


@pytest.mark.parametrize("entry", entries("ticks"))
def test_recorded_sizes_are_whole_units(entry: dict[str, Any], folder: Path) -> None:
    ticks = codec.decode_ticks(body_of(entry, folder), "", 0, 0)
    for sizes in (ticks.ask_size, ticks.bid_size):
        assert np.array_equal(sizes, np.rint(sizes))


@pytest.mark.parametrize("entry", entries("candles"))
def test_each_file_of_candles(entry: dict[str, Any], folder: Path) -> None:
    facts = entry["facts"]
    step_s = {1_440: 60, 744: 3_600, 672: 3_600, 365: 86_400, 366: 86_400}[facts["count"]]
    period = {60: "min_1", 3_600: "hour_1", 86_400: "day_1"}[step_s]
    candles = codec.decode_candles(body_of(entry, folder), entry["file"], 0, period, 0)
    assert len(candles.open) == facts["count"]
    for row, name in ((0, "first"), (-1, "last")):
        edge = facts[name]
        found = [column[row] for column in candles]
        expected = [edge["sec"] * 1_000_000, *(edge[side] for side in ("open", "high", "low", "close"))]
        assert found[:5] == expected
        assert found[5] == pytest.approx(edge["vol"] * 1e6, rel=1e-6)  # the index rounds
    if "zero_vol" in facts:
        assert np.count_nonzero(candles.volume == 0) == facts["zero_vol"]
    if "sum_close" in facts:
        assert int(candles.close.sum()) == facts["sum_close"]


def test_an_independently_decompressed_hour_is_the_same_bytes(folder: Path) -> None:
    files = sorted(folder.glob("ninety47+dukascopy/GBPJPY/**/*.bin"))
    assert len(files) == 12
    for file in files:
        assert codec.decompress(file.with_suffix(".bi5").read_bytes(), str(file)) == file.read_bytes()


def btc_bi5(folder: Path) -> TickColumns:
    body = (folder / NODE / codec.ticks_path("BTCUSD", BTC_HOUR_US)).read_bytes()
    return codec.decode_ticks(body, "bi5", BTC_HOUR_US, instruments.Instruments().find("BTCUSD").decimals)


def test_both_services_agree_on_a_recorded_hour(folder: Path) -> None:
    body = (folder / NODE / "jetta" / "ticks-BTC-USD-2023-2-20-12.json").read_bytes()
    ours, theirs = btc_bi5(folder), jetta.decode_ticks(body, "jetta", BTC_HOUR_US)
    assert len(ours.time_us) == 8_523
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        assert np.array_equal(mine, other)
    # The JSON API has two decimals more than the files, which hold whole units.
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        assert np.array_equal(mine, np.rint(other))


def test_a_javascript_decoder_gives_the_same_ticks(folder: Path) -> None:
    name = "btcusd-tick-2023-02-20T12-2023-02-20T13.json"
    rows = json.loads((folder / NODE / "expected-outputs" / name).read_text())
    ticks = btc_bi5(folder)
    assert [row["timestamp"] * 1_000 for row in rows] == ticks.time_us.tolist()
    assert [row["askPrice"] for row in rows] == ticks.ask.tolist()
    assert [row["bidPrice"] for row in rows] == ticks.bid.tolist()


def test_a_javascript_decoder_gives_the_same_seconds(folder: Path) -> None:
    name = "btcusd-s1-bid-2023-02-20T12-2023-02-20T13.json"
    rows = json.loads((folder / NODE / "expected-outputs" / name).read_text())
    ticks = btc_bi5(folder)
    expected = [tuple(row[side] for side in ("timestamp", "open", "high", "low", "close")) for row in rows]
    assert bars_of(ticks.time_us // 1_000_000 * 1_000, ticks.bid) == expected


def test_a_javascript_decoder_gives_the_same_months(folder: Path) -> None:
    """Four years of it are also there as days. That decoder lets a filler of a closed day open a month."""
    rows = json.loads(
        (folder / NODE / "expected-outputs" / "btcusd-mn1-bid-2018-01-01-2023-02-01.json").read_text()
    )
    months: dict[int, list[float]] = {}
    for year in (2018, 2019, 2020, 2021):
        start_us = hour_us(f"{year}-01-01T00:00:00+00:00")
        path = codec.candles_path("BTCUSD", "BID", "day_1", start_us)
        days = codec.decode_candles((folder / NODE / path).read_bytes(), path, start_us, "day_1", 1)
        for day in zip(*(column.tolist() for column in days), strict=True):
            time = datetime.datetime.fromtimestamp(day[0] / 1e6, datetime.UTC).replace(day=1)
            bar = months.setdefault(round(time.timestamp()) * 1_000, list(day[1:5]))
            bar[1:] = [max(bar[1], day[2]), min(bar[2], day[3]), day[4]]
    expected = {row["timestamp"]: [row[side] for side in ("open", "high", "low", "close")] for row in rows}
    assert len(months) == 48
    assert {time: bar for time, bar in months.items() if bar != expected[time]} == {}


def test_a_java_decoder_gives_the_same_ticks(folder: Path) -> None:
    base = folder / "LimeMojito+trading-data-stream" / "EURUSD/2018/06/05"
    start_us = hour_us("2018-07-05T05:00:00+00:00")
    ticks = codec.decode_ticks((base / "05h_ticks.bi5").read_bytes(), "bi5", start_us, 5)
    with (base / "05h_ticks.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    ours = zip(
        ticks.time_us.tolist(),
        np.rint(ticks.ask * 1e5).tolist(),
        ticks.ask_size.tolist(),
        np.rint(ticks.bid * 1e5).tolist(),
        ticks.bid_size.tolist(),
        strict=True,
    )
    assert len(rows) == 5_594
    expected = [
        (java_us(time), int(ask), round(float(ask_volume) * 1e6), int(bid), round(float(bid_volume) * 1e6))
        for time, ask, ask_volume, bid, bid_volume in rows
    ]
    assert list(ours) == expected


@pytest.mark.parametrize(("name", "minutes"), [("M5", 5), ("M10", 10), ("M15", 15), ("M30", 30), ("H1", 60)])
def test_a_java_decoder_gives_the_same_bars(folder: Path, name: str, minutes: int) -> None:
    base = folder / "LimeMojito+trading-data-stream" / "EURUSD/2018/06/05"
    start_us = hour_us("2018-07-05T05:00:00+00:00")
    ticks = codec.decode_ticks((base / "05h_ticks.bi5").read_bytes(), "bi5", start_us, 5)
    with (base / f"05h_{name}_bars.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    step_us = minutes * 60_000_000
    bars = bars_of(ticks.time_us // step_us * step_us, ticks.bid)
    expected = [(java_us(row[0]), *(int(price) / 1e5 for price in row[3:])) for row in rows]
    assert bars == expected


def java_us(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    time = datetime.datetime.fromisoformat(seconds).replace(tzinfo=datetime.UTC)
    return round(time.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0"))


def bars_of(opens: Any, price: Any) -> list[tuple[float, ...]]:
    """Open time, open, high, low and close of the prices of each run of equal open times."""
    first = np.flatnonzero(np.diff(opens, prepend=-1))
    last = np.append(first[1:], len(opens)) - 1
    high, low = np.maximum.reduceat(price, first), np.minimum.reduceat(price, first)
    columns = (opens[first], price[first], high, low, price[last])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("year", [2018, 2021])
def test_days_of_both_services_agree(folder: Path, year: int) -> None:
    start_us = hour_us(f"{year}-01-01T00:00:00+00:00")
    path = codec.candles_path("BTCUSD", "BID", "day_1", start_us)
    files = codec.decode_candles((folder / NODE / path).read_bytes(), path, start_us, "day_1", 1)
    body = (folder / NODE / "jetta" / f"candles-day-BTC-USD-BID-{year}.json").read_bytes()
    days = jetta.decode_candles(body, "jetta", start_us, "day")
    traded = files.volume > 0
    for mine, other in zip(files[:5], days[:5], strict=True):
        assert np.array_equal(mine[traded], other)
    assert np.allclose(files.volume[traded], days.volume, rtol=1e-6)


def test_candles_of_a_service_equal_those_of_its_ticks(folder: Path) -> None:
    """A day of minutes: open, high, low, close of the bid, and the sum of the bid's sizes."""
    start_us = hour_us("2019-02-04T00:00:00+00:00")
    base = folder / NODE / "EURUSD/2019/01/04"
    hours = [
        codec.decode_ticks(
            (base / f"{hour:02}h_ticks.bi5").read_bytes(), "", start_us + hour * 3_600_000_000, 5
        )
        for hour in range(24)
    ]
    time_us, bid, _, bid_size, _ = (np.concatenate(column) for column in zip(*hours, strict=True))
    minute = (time_us - start_us) // 60_000_000
    first = np.flatnonzero(np.diff(minute, prepend=-1))
    candles = codec.decode_candles((base / "BID_candles_min_1.bi5").read_bytes(), "", start_us, "min_1", 5)
    traded = np.flatnonzero(candles.volume)
    assert minute[first].tolist() == traded.tolist()
    assert np.array_equal(candles.open[traded], bid[first])
    assert np.array_equal(candles.high[traded], np.maximum.reduceat(bid, first))
    assert np.array_equal(candles.low[traded], np.minimum.reduceat(bid, first))
    assert np.array_equal(candles.close[traded], bid[np.append(first[1:], len(bid)) - 1])
    assert np.allclose(candles.volume[traded], np.add.reduceat(bid_size, first), rtol=1e-6)


async def test_a_real_day_through_http_and_every_fault(folder: Path) -> None:
    """The sums of 24 recorded hours after 503s, cut files, resets, silences and block pages."""
    chance = random.Random(7)  # noqa: S311 - the same faults each time
    kinds: list[FaultKind] = [
        "status",
        "html",
        "cut",
        "broken off",
        "short",
        "garbage",
        "hang",
        "stall",
        "reset",
    ]
    day_us = hour_us("2019-02-04T00:00:00+00:00")
    hours = [day_us + hour * 3_600_000_000 for hour in range(24)]
    got: dict[int, TickColumns] = {}

    async def one(source: DukascopySource, start_us: int) -> None:
        raw = await source.fetch("EURUSD", start_us)
        got[start_us] = await trio.to_thread.run_sync(source.decode, raw)

    async with open_fake_dukascopy(folder / NODE) as feed:
        for start_us in hours:
            for kind in chance.sample(kinds, 2):
                feed.fail(Fault(kind), times=1, path=codec.ticks_path("EURUSD", start_us))
        config = DukascopyConfig(url=feed.url, services=("datafeed",), pause_s=0, backoff_s=0.02, timeout_s=5)
        async with (
            open_source(config, HistoryHost(structlog.get_logger(), print)) as source,
            trio.open_nursery() as nursery,
        ):
            for start_us in hours:
                nursery.start_soon(one, source, start_us)
        assert len(feed.requests) == 3 * 24
    facts = [
        e["facts"] for e in ENTRIES if f"{NODE}/EURUSD/2019/01/04/" in e["file"] and "ticks" in e["file"]
    ]
    assert len(facts) == 24
    day = [np.concatenate(column) for column in zip(*(got[start_us] for start_us in hours), strict=True)]
    assert len(day[0]) == sum(fact["count"] for fact in facts)
    assert int(np.rint(day[2] * 1e5).sum()) == sum(fact["sum_ask"] for fact in facts)
    assert int(np.rint(day[1] * 1e5).sum()) == sum(fact["sum_bid"] for fact in facts)
    assert (np.diff(day[0]) >= 0).all()


def test_minutes_of_the_last_day_of_a_week(folder: Path) -> None:
    start_us = hour_us("2026-07-10T00:00:00+00:00")
    body = (folder / NODE / "jetta" / "candles-minute-EUR-USD-BID-2026-7-10.json").read_bytes()
    candles = jetta.decode_candles(body, "", start_us, "minute")
    assert len(candles.open) == 1_258
    assert candles.time_us[-1] == start_us + (20 * 60 + 59) * 60_000_000
    assert candles.open[0] == 1.14331
    assert not math.isnan(candles.volume.sum())
    empty = (folder / NODE / "jetta" / "candles-minute-EUR-USD-BID-2026-7-11-empty.json").read_bytes()
    assert len(jetta.decode_candles(empty, "", start_us + 86_400_000_000, "minute").open) == 0
