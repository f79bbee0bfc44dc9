"""The fake Kraken does what is known of the real one."""

import json
import math
import zlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.net import WebSocket, WebSocketClosed, fetch, open_websocket
from mdserver.testing.kraken import PAIRS, FakeKraken, KrakenRules, open_fake_kraken


@pytest.fixture
async def venue() -> AsyncIterator[FakeKraken]:
    with trio.fail_after(30):
        async with open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=0.05)) as venue:
            yield venue


class Client:
    """A plain client: what it got and did not look at yet."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.frames: list[dict[str, Any]] = []

    async def next(self, *, heartbeats: bool = False) -> dict[str, Any]:
        while True:
            while not self.frames:
                texts = await self.websocket.receive()
                self.frames += [json.loads(text, parse_float=Decimal) for text in texts]
            frame = self.frames.pop(0)
            if heartbeats or frame.get("channel") != "heartbeat":
                return frame

    async def take_all(self, into: list[dict[str, Any]]) -> None:
        while True:
            into.append(await self.next())

    async def ask(self, method: str, **params: object) -> None:
        await self.websocket.send(json.dumps({"method": method, "params": params, "req_id": 7}))


@pytest.fixture
async def client(venue: FakeKraken) -> AsyncIterator[Client]:
    async with open_websocket(venue.url) as websocket:
        client = Client(websocket)
        status = await client.next()
        assert status["channel"] == "status"
        assert status["data"][0]["system"] == "online"
        yield client


def times_apart(reply: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reply.items() if not key.startswith("time_")}


async def test_one_ack_for_each_symbol_and_refusals_that_end_nothing(client: Client) -> None:
    await client.ask("subscribe", channel="ticker", symbol=["BTC/USD", "XBT/USD", "XBTUSD"], snapshot=False)
    replies = [times_apart(await client.next()) for _ in range(3)]
    result = {"channel": "ticker", "snapshot": False, "event_trigger": "trades", "symbol": "BTC/USD"}
    refused = {"method": "subscribe", "success": False, "req_id": 7}
    assert replies == [
        {"method": "subscribe", "result": result, "success": True, "req_id": 7},
        refused | {"error": "Currency pair not supported XBT/USD", "symbol": "XBT/USD"},
        refused | {"error": "Currency pair not in ISO 4217-A3 format XBTUSD", "symbol": "XBTUSD"},
    ]
    await client.ask("ping")
    assert (await client.next())["method"] == "pong"


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"channel": "book", "symbol": ["BTC/USD"], "depth": 20}, "Subscription depth not supported"),
        (
            {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 2},
            "Subscription ohlc interval not supported",
        ),
        ({"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": "x"}, "Event trigger not supported"),
        ({"channel": "level3", "symbol": ["BTC/USD"]}, "Private data and trading are unavailable"),
        ({"channel": "nonsense", "symbol": ["BTC/USD"]}, "Channel not supported nonsense"),
        ({"channel": "ticker", "symbol": "BTC/USD"}, "Symbol(s) must be an array"),
    ],
)
async def test_refusals(client: Client, params: dict[str, object], error: str) -> None:
    await client.ask("subscribe", **params)
    reply = await client.next()
    assert reply["success"] is False
    assert reply["error"].startswith(error)


@pytest.mark.parametrize("text", ["{", "[]", '{"id":1}', "7"])
async def test_nonsense(client: Client, text: str) -> None:
    await client.websocket.send(text)
    assert await client.next() == {"error": "Malformed request", "success": False}


async def test_twice_and_never(client: Client) -> None:
    await client.ask("subscribe", channel="trade", symbol=["BTC/USD"])
    assert (await client.next())["success"]
    await client.ask("subscribe", channel="trade", symbol=["BTC/USD"])
    assert (await client.next())["error"] == "Already subscribed"
    await client.ask("unsubscribe", channel="trade", symbol=["BTC/USD"])
    reply = times_apart(await client.next())
    assert reply["method"] == "unsubscribe"
    assert reply["success"]
    await client.ask("unsubscribe", channel="trade", symbol=["BTC/USD"])
    assert (await client.next())["error"] == "Subscription Not Found"
    await client.ask("add_order")
    assert (await client.next())["error"] == "Unsupported method"


async def test_heartbeats_begin_with_the_first_request_and_go_on_after_a_refusal(
    venue: FakeKraken, client: Client
) -> None:
    with trio.move_on_after(0.2) as scope:
        await client.next(heartbeats=True)
    assert scope.cancelled_caught
    await client.ask("subscribe", channel="ticker", symbol=["NO/SUCH"])
    assert (await client.next())["success"] is False
    for _ in range(3):
        assert await client.next(heartbeats=True) == {"channel": "heartbeat"}


async def test_a_client_that_asks_for_nothing_is_closed(venue: FakeKraken, client: Client) -> None:
    venue.rules.idle_s = 0.1
    with pytest.raises(WebSocketClosed, match="1000"):
        await client.next()


async def test_acks_in_another_order(venue: FakeKraken, client: Client) -> None:
    venue.rules.acks = "reversed"
    symbols = [pair.symbol for pair in PAIRS]
    await client.ask("subscribe", channel="trade", symbol=symbols)
    assert [(await client.next())["result"]["symbol"] for _ in symbols] == symbols[::-1]


def digits(level: dict[str, Decimal]) -> str:
    return "".join(f"{level[name]:f}".replace(".", "").lstrip("0") for name in ("price", "qty"))


class Book:
    """A client's book, with the venue's rules and no thought of speed."""

    def __init__(self, depth: int, snapshot: dict[str, Any]) -> None:
        self.depth = depth
        self.bids: dict[Decimal, Decimal] = {}
        self.asks: dict[Decimal, Decimal] = {}
        self.take(snapshot)

    def take(self, row: dict[str, Any]) -> None:
        for side, changes in ((self.bids, row["bids"]), (self.asks, row["asks"])):
            side.update({change["price"]: change["qty"] for change in changes})
            kept = sorted((p for p, q in side.items() if q), reverse=side is self.bids)[: self.depth]
            for price in side.keys() - set(kept):
                del side[price]

    def checksum(self) -> int:
        best = [(p, self.asks[p]) for p in sorted(self.asks)[:10]]
        best += [(p, self.bids[p]) for p in sorted(self.bids, reverse=True)[:10]]
        return zlib.crc32("".join(digits({"price": p, "qty": q}) for p, q in best).encode())


@pytest.mark.parametrize(("symbol", "depth"), [("BTC/USD", 10), ("DOGE/USD", 25), ("MINA/GBP", 1000)])
async def test_a_client_that_truncates_agrees_with_every_checksum(
    venue: FakeKraken, client: Client, symbol: str, depth: int
) -> None:
    await client.ask("subscribe", channel="book", symbol=[symbol], depth=depth)
    assert (await client.next())["result"]["depth"] == depth
    snapshot = await client.next()
    assert snapshot["type"] == "snapshot"
    book = Book(depth, snapshot["data"][0])
    assert book.checksum() == snapshot["data"][0]["checksum"]
    for _ in range(200):
        venue.step(symbol)
    venue.push(None, '{"channel":"end"}')
    updates = 0
    while (frame := await client.next())["channel"] == "book":
        assert frame["type"] == "update"
        book.take(frame["data"][0])
        assert book.checksum() == frame["data"][0]["checksum"]
        updates += 1
    assert updates > 50


async def test_levels_beyond_the_depth_are_left_to_the_client(venue: FakeKraken, client: Client) -> None:
    await client.ask("subscribe", channel="book", symbol=["BTC/USD"], depth=10)
    await client.next()
    book = Book(10**6, (await client.next())["data"][0])  # one that never truncates
    wrong = 0
    for _ in range(200):
        venue.step("BTC/USD")
    venue.push(None, '{"channel":"end"}')
    while (frame := await client.next())["channel"] == "book":
        book.take(frame["data"][0])
        wrong += book.checksum() != frame["data"][0]["checksum"]
    assert wrong > 0


async def test_a_resubscription_brings_a_snapshot_like_the_first(venue: FakeKraken, client: Client) -> None:
    kinds = []
    for _ in range(2):
        await client.ask("subscribe", channel="book", symbol=["BTC/USD"])
        await client.next()
        kinds.append((await client.next())["type"])
        await client.ask("unsubscribe", channel="book", symbol=["BTC/USD"])
        await client.next()
        venue.step("BTC/USD")
    assert kinds == ["snapshot", "snapshot"]


async def test_trades_of_one_order_come_in_one_frame(venue: FakeKraken, client: Client) -> None:
    await client.ask("subscribe", channel="trade", symbol=["BTC/USD"], snapshot=True)
    await client.next()
    assert len((await client.next())["data"]) == 50
    venue.trade("BTC/USD", 3)
    venue.trade("BTC/USD", 1, skip_ids=10)
    first, second = await client.next(), await client.next()
    ids = [row["trade_id"] for row in first["data"]]
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    assert len({row["timestamp"] for row in first["data"]}) == 1
    assert second["data"][0]["trade_id"] == ids[-1] + 11


async def test_candles_know_no_minutes_without_trades(venue: FakeKraken, client: Client) -> None:
    await client.ask("subscribe", channel="ohlc", symbol=["BTC/USD"], interval=1)
    assert (await client.next())["result"]["warnings"]
    rows = (await client.next())["data"]
    begins = [row["interval_begin"] for row in rows]
    assert begins == sorted(set(begins))
    assert all(row["low"] <= row["open"] <= row["high"] and row["trades"] > 0 for row in rows)
    venue.trade("BTC/USD")
    update = await client.next()
    assert (update["type"], len(update["data"])) == ("update", 1)


async def test_silence_is_heartbeats_without_data(venue: FakeKraken, client: Client) -> None:
    await client.ask("subscribe", channel="trade", symbol=["BTC/USD"])
    await client.next()
    venue.rules.silent = True
    venue.trade("BTC/USD")
    venue.step("BTC/USD")
    assert await client.next(heartbeats=True) == {"channel": "heartbeat"}
    venue.rules.silent = False
    venue.trade("BTC/USD")
    assert (await client.next())["channel"] == "trade"


async def test_the_clock_may_be_wrong(venue: FakeKraken, client: Client) -> None:
    venue.rules.skew_s = 3600.0
    seen = (await rest(venue, "Time"))["unixtime"]
    venue.rules.skew_s = 0.0
    assert 3590 < seen - (await rest(venue, "Time"))["unixtime"] <= 3600


async def rest(venue: FakeKraken, call: str) -> Any:
    answer = json.loads(await fetch(f"{venue.rest_url}/0/public/{call}"))
    return answer["error"] or answer["result"]


async def test_rest_knows_a_pair_by_each_of_its_names(venue: FakeKraken) -> None:
    venue.rules.rest_burst = 100
    for name in ("BTC/USD", "XBT/USD", "XBTUSD", "XXBTZUSD"):
        assert list(await rest(venue, f"AssetPairs?pair={name}")) == ["XXBTZUSD"]
        assert list(await rest(venue, f"Depth?pair={name}&count=5")) == ["XXBTZUSD"]
    assert await rest(venue, "Ticker?pair=NOSUCH") == ["EQuery:Unknown asset pair"]
    assert await rest(venue, "AssetPairs?pair=XBTUSD,NOSUCH") == ["EQuery:Unknown asset pair"]
    assert await rest(venue, "Nonsense") == ["EGeneral:Unknown method"]
    assert len(await rest(venue, "AssetPairs")) == len(PAIRS)
    assert (await rest(venue, "Assets"))["XXBT"]["altname"] == "XBT"
    assert (await rest(venue, "SystemStatus"))["status"] == "online"


async def test_pages_of_trades_overlap_at_equal_times(venue: FakeKraken) -> None:
    venue.rules.rest_burst = 1000
    found: dict[int, object] = {}
    since, rows = "0", []
    while len(rows) != 1:  # a page of nothing but what is known already
        page = await rest(venue, f"Trades?pair=XBTUSD&since={since}&count=50")
        rows, since = page["XXBTZUSD"], page["last"]
        assert len(rows) <= 50
        if len({row[6] for row in rows} - found.keys()) == 0:
            break
        found |= {row[6]: row for row in rows}
    assert sorted(found) == [trade.trade_id for trade in venue.markets["BTC/USD"].trades]
    assert await rest(venue, "Trades?pair=XBTUSD&since=x") == ["EGeneral:Invalid arguments"]


async def test_rest_fills_minutes_without_trades(venue: FakeKraken) -> None:
    page = await rest(venue, "OHLC?pair=XBTUSD&interval=1")
    times = [row[0] for row in page["XXBTZUSD"]]
    assert times == list(range(times[0], times[-1] + 60, 60))
    assert page["last"] == times[-2]


async def test_rest_counts_requests(venue: FakeKraken) -> None:
    answers = [await rest(venue, "Trades?pair=XBTUSD") for _ in range(4)]
    assert answers[3] == ["EGeneral:Too many requests"]
    assert "XXBTZUSD" in answers[2]


async def test_without_a_script_it_lives_and_with_one_it_fails_on_time() -> None:
    script = [(1.0, FakeKraken.break_checksum), (2.0, FakeKraken.reset_in_frame)]
    with trio.fail_after(30):
        async with open_fake_kraken(script=script) as venue, open_websocket(venue.url) as websocket:
            client = Client(websocket)
            await client.ask("subscribe", channel="book", symbol=["BTC/USD"])
            frames: list[dict[str, Any]] = []
            with pytest.raises(Unavailable, match="connection lost"):
                await client.take_all(frames)
    rows = [frame["data"][0] for frame in frames if frame.get("channel") == "book"]
    book = Book(10, rows[0])
    right = [(book.take(row), book.checksum() == row["checksum"])[1] for row in rows[1:]]
    assert len(right) > 3
    assert right.count(False) == 1
