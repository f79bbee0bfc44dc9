"""Recorded frames of the real venue through the real plugin, over a real socket."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from mdserver.model import Feed, Record, Tick
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver.testing.recorded import (
    Frame,
    read_cryptofeed,
    read_cryptofeed_http,
    read_jsonl,
    recorded_folder,
)
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.codec import decode_exchange_info

pytestmark = pytest.mark.recorded

FILES = {
    "bmoscon+cryptofeed/BINANCE.ws.1.0": (84, 2),
    "bmoscon+cryptofeed/BINANCE_US.ws.1.0.first320": (87, 9),
    "crypto-crawler+crypto-msg-parser/binance_spot.jsonl": (0, 1),
}
"""File, and how many book tickers and aggregate trades of single symbols it holds."""


@pytest.fixture
def folder() -> Path:
    folder = recorded_folder()
    if folder is None:
        pytest.skip("no folder of recorded venue data: name it in MDSERVER_RECORDED_DATA")
    return folder


def load(folder: Path, name: str) -> list[Frame]:
    path = folder / name
    if not path.exists():
        pytest.skip(f"{name} is not among the recorded data")
    return read_jsonl(path) if name.endswith(".jsonl") else read_cryptofeed(path)


def expected(frames: Iterable[Frame]) -> list[tuple[object, ...]]:
    """Read the frames in the plainest way: json and float."""
    rows: list[tuple[object, ...]] = []
    for frame in frames:
        data = json.loads(frame.text)["data"]
        if frame.stream.endswith("@bookTicker"):
            rows.append(("tick", data["s"], *(float(data[key]) for key in "baBA")))
        elif frame.stream.endswith("@aggTrade"):
            side = "sell" if data["m"] else "buy"
            price, size = float(data["p"]), float(data["q"])
            rows.append(("trade", data["s"], data["T"] * 1000, price, size, side, str(data["a"])))
    return rows


def row(record: Record) -> tuple[object, ...]:
    if isinstance(record, Tick):
        return ("tick", record.symbol, record.bid, record.ask, record.bid_size, record.ask_size)
    time_us, price = record.time_us, record.price
    return ("trade", record.symbol, time_us, price, record.size, record.side, record.trade_id)


@pytest.mark.parametrize("name", FILES)
async def test_every_tick_and_trade_arrives_in_order(
    folder: Path, name: str, venue: FakeBinance, nursery: trio.Nursery
) -> None:
    frames = load(folder, name)
    rows = expected(frames)
    assert (sum(r[0] == "tick" for r in rows), sum(r[0] == "trade" for r in rows)) == FILES[name]
    feeds = {Feed(str(r[1]), "tick" if r[0] == "tick" else "trade") for r in rows}
    venue.instruments = {feed.symbol: ("TRADING", "", "") for feed in feeds}
    host = FakeHost(feeds)
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url, trades="aggTrade"))
    with trio.fail_after(20):
        await nursery.start(functools.partial(broker.run, host))
        await host.wait_confirmed(feeds)
        assert await venue.replay(frames) == len(rows)
        records = await host.wait_records(len(rows))
    assert [row(record) for record in records] == rows
    assert not host.discarded


@pytest.mark.parametrize("name", FILES)
async def test_streams_not_asked_for_are_ignored_not_faults(
    folder: Path, name: str, venue: FakeBinance, nursery: trio.Nursery
) -> None:
    frames = load(folder, name)
    host = FakeHost(expected_faults=["unwanted"])
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url, trades="aggTrade"))
    with trio.fail_after(20):
        await nursery.start(functools.partial(broker.run, host))
        for frame in frames:
            await venue.connections[0].send_text(frame.text)
        await host.wait_until(lambda: len(host.records) + host.ignored_kinds.total() >= len(frames))
    assert not host.discarded
    assert set(host.ignored_kinds) <= {"depthUpdate", "kline", "24hrTicker", "depth20"}
    streams = ("@bookTicker", "@aggTrade", "!bookTicker")
    assert len(host.records) == sum(frame.stream.endswith(streams) for frame in frames)


async def test_the_recorded_instrument_list(folder: Path, venue: FakeBinance, nursery: trio.Nursery) -> None:
    path = folder / "bmoscon+cryptofeed/BINANCE.0"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the recorded data")
    body = read_cryptofeed_http(path)["https://api.binance.com/api/v3/exchangeInfo"].encode()
    rows = [r for r in json.loads(body)["symbols"] if r["status"] == "TRADING"]
    decoded = decode_exchange_info(body).instruments
    assert [i.symbol for i, trading in decoded.items() if trading] == [r["symbol"] for r in rows]
    venue.exchange_info = body
    good, gone = Feed("NKNUSDT", "tick"), Feed("NOSUCH", "tick")
    host = FakeHost([good, gone])
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url))
    with trio.fail_after(20):
        await nursery.start(functools.partial(broker.run, host))
        await host.wait_confirmed([good])
    assert host.refused.keys() == {gone}
    assert host.table is not None
    assert len(host.table) == len(rows)
