"""Recorded frames of the real venue through the real plugin, over a real socket."""

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage, Unavailable
from mdserver.model import Feed, OrderBook, Record, Tick, Trade
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
from mdserver_binance.codec import Decoder, decode_exchange_info
from mdserver_binance.rest import Rest

from .test_books import rebuilt

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
    assert isinstance(record, Trade)
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
    with trio.fail_after(30):
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
    with trio.fail_after(30):
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
    with trio.fail_after(30):
        await nursery.start(functools.partial(broker.run, host))
        await host.wait_confirmed([good])
    assert host.refused.keys() == {gone}
    assert host.table is not None
    assert len(host.table) == len(rows)


BOOKS = {
    "BINANCE": ("bmoscon+cryptofeed/BINANCE.ws.1.0", "bmoscon+cryptofeed/BINANCE.http.0.0"),
    "BINANCE_US_first320": (
        "bmoscon+cryptofeed/BINANCE_US.ws.1.0.first320",
        "bmoscon+cryptofeed/BINANCE_US.http.0.0",
    ),
}


def snapshots(folder: Path, name: str) -> dict[str, bytes]:
    """The recorded answers of ``/api/v3/depth``, by symbol."""
    return {
        parse_qs(urlsplit(url).query)["symbol"][0]: body.encode()
        for url, body in read_cryptofeed_http(folder / name).items()
    }


@pytest.mark.parametrize("name", BOOKS)
async def test_whole_books_end_as_an_independent_replay_says(
    folder: Path, name: str, venue: FakeBinance, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each symbol's messages and its snapshot, which comes late, through the plugin; the book its records make."""
    frames = [frame for frame in load(folder, BOOKS[name][0]) if frame.stream.endswith("@depth@100ms")]
    bodies = snapshots(folder, BOOKS[name][1])
    expected_books = json.loads((folder / "bmoscon+cryptofeed/expected_books.json").read_text())[name]
    feeds = [Feed(symbol, "orderbook", "full") for symbol in expected_books]
    venue.instruments = {feed.symbol: ("TRADING", "", "") for feed in feeds}
    told = trio.Event()

    async def late(_rest: Rest, _path: str, params: Mapping[str, str], **_: object) -> bytes:
        if "symbol" not in params:
            raise Unavailable("no list here")
        await told.wait()
        return bodies[params["symbol"]]

    monkeypatch.setattr(Rest, "get", late)
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url))
    host = FakeHost(feeds)
    with trio.fail_after(30):
        await nursery.start(functools.partial(broker.run, host))
        await venue.wait_subscribed(*{frame.stream for frame in frames})
        await venue.replay(frames[: len(frames) // 4])
        venue.garbage()
        await host.wait_until(lambda: bool(host.discarded))
        told.set()
        await host.wait_until(lambda: len({record.symbol for record in host.records}) == len(feeds))
        await venue.replay(frames[len(frames) // 4 :])
        venue.garbage()
        await host.wait_until(lambda: len(host.discarded) == 2)
    for symbol, expected_book in expected_books.items():
        bids, asks = rebuilt(r for r in host.records if isinstance(r, OrderBook) and r.symbol == symbol)
        assert (len(bids), len(asks)) == (expected_book["bids"], expected_book["asks"])
        best = [max(bids), bids[max(bids)], min(asks), asks[min(asks)]]
        assert best == [
            float(expected_book[key]) for key in ("best_bid", "best_bid_qty", "best_ask", "best_ask_qty")
        ]
    assert sum(isinstance(r, OrderBook) and r.action == "update" for r in host.records) > 20
    assert not host.gaps


@pytest.mark.parametrize("name", FILES)
def test_damaged_frames_are_events_or_bad_messages(folder: Path, name: str) -> None:
    texts = [frame.text.encode() for frame in load(folder, name)]

    @given(st.sampled_from(texts), st.integers(0, 4000), st.integers(0, 6), st.binary(max_size=4))
    def damage(text: bytes, at: int, length: int, instead: bytes) -> None:
        at %= len(text)
        decoder = Decoder("aggTrade")
        decoder.symbols.update(dict.fromkeys(("btcusdt", "ethusdt"), "X"))
        with contextlib.suppress(BadMessage):
            decoder.decode(text[:at] + instead + text[at + length :], 1)

    damage()
