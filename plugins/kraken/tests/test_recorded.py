"""Frames that the venue really sent, through the plugin over real sockets: every number, checksums included."""

import functools
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from mdserver.model import Feed, OrderBook, Tick, Trade
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import FakeKraken, KrakenRules, Pair, open_fake_kraken
from mdserver.testing.recorded import recorded_folder
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_kraken.books import DEPTHS, BookKeeper, BookState
from mdserver_kraken.codec import Books, Decoder, RestPage, decode_trades_page

pytestmark = pytest.mark.recorded

MINA = "GarethCooke+DepthCharge/kraken_minagbp_d25_20260816.ndjson"
BTC_BOOK = "btschwertfeger+python-kraken-sdk/orderbook-v2.wire.jsonl"
ONE_BOOK = "elkinal+tickstore/book_snapshot.input.json"
TRADES = "elkinal+tickstore/trade_update.input.json"
TICKER_TRADE = "quoted-public-files/kraken_v2_ticker_trade.jsonl"
OHLC = "quoted-public-files/kraken_v2_ohlc_2026-09-10.jsonl"
REST = "quoted-public-files/kraken_rest_2026-09-25.jsonl"
REST_TRADES = "nautechsystems+nautilus_trader/kraken/http_trades_first300.json"
PAIRS = [
    Pair("BTC/USD", "XXBTZUSD", "XXBT", "ZUSD", 1, 600_000),
    Pair("BTC/USDT", "XBTUSDT", "XXBT", "USDT", 1, 600_000),
    Pair("MINA/GBP", "MINAGBP", "MINA", "ZGBP", 4, 286),
]


def text(name: str) -> str:
    folder = recorded_folder()
    if folder is None or not (folder / name).exists():
        pytest.skip(f"{Path(name).name} is not among the recorded data")
    return (folder / name).read_text(encoding="utf-8")


def lines(name: str) -> list[str]:
    return [line for line in text(name).splitlines() if line.strip()]


def mina_frames() -> list[str]:
    """The frames that were received, as they were written: the capture holds each as the last value of its line."""
    rows = [line for line in lines(MINA)[1:] if '"dir": "tx"' not in line]
    return [line.partition('"frame": ')[2].removesuffix("}") for line in rows]


@pytest.fixture
async def venue() -> AsyncIterator[FakeKraken]:
    async with open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=3600.0), pairs=PAIRS) as venue:
        yield venue


async def replayed(
    venue: FakeKraken, nursery: trio.Nursery, feeds: list[Feed], frames: list[str]
) -> FakeHost:
    """Return a host after a session that subscribed to ``feeds`` and got the frames, and nothing else."""
    host = FakeHost()
    config = KrakenConfig(url=venue.url, rest_url=venue.rest_url)
    await nursery.start(functools.partial(KrakenBroker(config).run, host))
    venue.rules.snapshots = False
    host.demand.set(feeds)
    await host.wait_confirmed(feeds)
    host.batches.clear()
    await venue.replay(frames)
    venue.push(None, "the end")
    await host.wait_until(lambda: bool(host.discarded))
    return host


def told(frames: list[str]) -> list[tuple[object, ...]]:
    """What the frames say, read by a plain JSON parser."""
    found: list[tuple[object, ...]] = []
    for frame in map(json.loads, frames):
        for row in frame["data"] if frame.get("channel") in ("ticker", "trade") else ():
            symbol = row["symbol"].replace("/", "")
            if frame["channel"] == "ticker":
                found.append(("tick", symbol, row["bid"], row["ask"], row["bid_qty"], row["ask_qty"]))
            else:
                found.append(("trade", symbol, row["price"], row["qty"], row["side"], str(row["trade_id"])))
    return found


def published(host: FakeHost) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for record in host.records:
        if isinstance(record, Tick):
            rows.append(("tick", record.symbol, record.bid, record.ask, record.bid_size, record.ask_size))
        elif isinstance(record, Trade):
            rows.append(("trade", record.symbol, record.price, record.size, record.side, record.trade_id))
    return rows


async def test_tickers_and_trades(venue: FakeKraken, nursery: trio.Nursery) -> None:
    frames = [*lines(TICKER_TRADE), text(TRADES).strip()]
    feeds = [Feed("BTCUSD", "tick"), Feed("BTCUSD", "trade"), Feed("BTCUSDT", "trade")]
    with trio.fail_after(30):
        host = await replayed(venue, nursery, feeds, frames)
    wanted = told(frames)
    # The last two are older than what came before: repeats, as far as the plugin can tell.
    assert host.ignored_kinds["repeated trade"] == 2
    assert published(host) == wanted[:-2]
    times = [record.time_us for record in host.records]
    assert times[:5] == [1783488281204829, 1782456082476797, *[1753245706919844] * 3]
    assert len(host.discarded) == 1


def books_told(frames: list[str], depth: int) -> list[tuple[object, object]]:
    """The best levels after each book message, by a plain parser and a dict sorted anew each time."""
    sides: dict[str, dict[float, float]] = {}
    found: list[tuple[object, object]] = []
    for frame in map(json.loads, frames):
        for row in frame["data"] if frame.get("channel") == "book" else ():
            for name in ("bids", "asks"):
                side = sides.setdefault(name, {})
                if frame["type"] == "snapshot":
                    side.clear()
                side.update({level["price"]: level["qty"] for level in row[name]})
                kept = sorted((p for p, q in side.items() if q), reverse=name == "bids")[:depth]
                sides[name] = {price: side[price] for price in kept}
            found.append((tuple(sides["bids"].items()), tuple(sides["asks"].items())))
    return found


@pytest.mark.parametrize(
    ("name", "symbol", "depth", "count"), [(MINA, "MINAGBP", 25, 30), (BTC_BOOK, "BTCUSD", 10, 510)]
)
async def test_every_level_of_every_book(
    venue: FakeKraken,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    symbol: str,
    depth: int,
    count: int,
) -> None:
    monkeypatch.setitem(DEPTHS, "25", depth)  # the depth of the capture
    frames = mina_frames() if name == MINA else lines(name)
    with trio.fail_after(30):
        host = await replayed(venue, nursery, [Feed(symbol, "orderbook", "25")], frames)
    books = [record for record in host.records if isinstance(record, OrderBook)]
    assert [(book.bids, book.asks) for book in books] == books_told(frames, depth)
    assert len(books) == count
    assert not host.gaps  # a checksum that differs would be one
    assert len(host.discarded) == 1  # the end


async def test_what_we_do_not_use_is_ignored_not_a_fault(venue: FakeKraken, nursery: trio.Nursery) -> None:
    with trio.fail_after(30):
        host = await replayed(venue, nursery, [], lines(OHLC))
    assert len(host.discarded) == 1
    assert host.ignored_kinds == {"ohlc": 2, "reply": 2}


@pytest.mark.parametrize(
    ("name", "depth", "count", "best"),
    [
        (MINA, 25, 30, ("286", "7419819125726", "288", "3241638964164")),
        (BTC_BOOK, 10, 510, ("294304", "1193517449", "294305", "560461")),
        (ONE_BOOK, 10, 1, ("651453", "59340168", "651454", "2691437")),
    ],
)
def test_every_checksum_of_every_book(name: str, depth: int, count: int, best: tuple[str, ...]) -> None:
    decoder, keeper, states = Decoder(), BookKeeper(), []
    for frame in mina_frames() if name == MINA else lines(name):
        event = decoder.decode(frame.encode(), 1)
        if isinstance(event, Books):
            states += [keeper.take(change, depth) for change in event.changes]
            symbol = event.changes[0].symbol
    assert states == [BookState.GOOD] * count
    bid, ask = keeper[symbol].best_bid, keeper[symbol].best_ask
    assert bid is not None
    assert ask is not None
    assert (bid[2].decode(), ask[2].decode()) == (best[0] + best[1], best[2] + best[3])
    assert [len(side) for side in keeper[symbol].top()] == [depth, depth]


def test_without_truncation_the_checksums_would_fail() -> None:
    """What makes the test above worth something."""
    decoder, keeper, broken = Decoder(), BookKeeper(), 0
    for frame in lines(BTC_BOOK):
        event = decoder.decode(frame.encode(), 1)
        assert isinstance(event, Books)
        broken += keeper.take(event.changes[0], 1000) is not BookState.GOOD
    assert broken > 0


def test_trades_of_rest() -> None:
    page = decode_trades_page(lines(REST)[1].encode(), "BTCUSD")
    assert isinstance(page, RestPage)
    assert page.last_ns == 1790359841138228746
    assert [(r.number, r.trade.time_us, r.trade.price, r.trade.size, r.trade.side) for r in page.rows] == [
        (109118758, 1790359840939291, 83930.3, 0.000051, "sell"),
        (109118759, 1790359841138228, 83928.0, 0.00044682, "buy"),
        (109118760, 1790359841138228, 83935.4, 0.00551352, "buy"),
    ]
    assert decode_trades_page(lines(REST)[2].encode(), "X") == "EQuery:Unknown asset pair"


def test_three_hundred_trades_of_rest() -> None:
    body = json.loads(text(REST_TRADES))
    body["result"]["last"] = "0"  # the excerpt has none
    page = decode_trades_page(json.dumps(body).encode(), "BTCUSDT")
    assert isinstance(page, RestPage)
    rows = body["result"]["XBTUSDT"]
    assert [row.number for row in page.rows] == list(range(10218208, 10218508))
    for row, (price, size, time_s, side, *_rest) in zip(page.rows, rows, strict=True):
        trade = row.trade
        assert (trade.price, trade.size) == (float(price), float(size))
        assert trade.side == {"b": "buy", "s": "sell"}[side]
        assert trade.time_us == pytest.approx(time_s * 1e6, abs=1)
