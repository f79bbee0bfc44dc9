"""How much of a stream, and how often: depth of order books, rate, what a slow client gets, all symbols of a broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from mdserver.config import AuthConfig, KeyEntry
from mdserver.model import OrderBook, Record, Tick, Topic, Trade

from .conftest import Client, StreamServer, open_client, open_stream_server
from .test_access import HASH, KEY, OTHER_HASH, OTHER_KEY
from .test_slow_clients import open_raw

T0 = 1_710_918_000_000_000
TYPES = ("tick", "trade", "orderbook")


def tick(symbol: str, n: int) -> Tick:
    return Tick(symbol, T0 + n, 1.0 + n, 2.0 + n)


def levels(count: int, *, best: float = 100.0) -> tuple[tuple[float, float], ...]:
    return tuple((best - n, 1.5) for n in range(count))


def book(n: int, count: int = 25) -> OrderBook:
    return OrderBook("EURUSD", T0 + n, levels(count), (), "snapshot", "25")


def full(n: int, *bids: tuple[float, float], action: Any = "update") -> OrderBook:
    return OrderBook("EURUSD", T0 + n, bids, (), action, "full")


def publish(server: StreamServer, *records: Record) -> None:
    server.brokers["one"].publish(*records)


async def next_of(client: Client, *kinds: str) -> Any:
    while True:
        message = await client.get()
        if message["type"] in kinds:
            return message


async def active(client: Client, *symbols: str, **fields: Any) -> Any:
    """Subscribe, and return the answer once the broker has confirmed it."""
    await client.send({"action": "subscribe", "symbols": list(symbols), **fields})
    while True:
        ack = await next_of(client, "ack", "error")
        if ack["type"] == "error" or all(row["status"] != "pending" for row in ack["results"]):
            return ack


async def ticks_until(client: Client, seq: int) -> list[Any]:
    out = []
    while not out or out[-1]["seq"] < seq:
        out.append(await next_of(client, "tick"))
    return out


# -- depth ---------------------------------------------------------------------------------------------


async def test_each_depth_is_cut_from_the_same_feed_and_the_default_is_ten() -> None:
    async with (
        open_stream_server(types=TYPES) as server,
        open_client(server.url) as one,
        open_client(server.url) as two,
        open_client(server.url) as three,
    ):
        ack = await active(one, "EURUSD", types=["orderbook"])
        assert ack["results"][0]["depth"] == ack["subscriptions"][0]["depth"] == 10
        assert "interval" not in ack["subscriptions"][0]
        await active(two, "EURUSD", types=["orderbook"], depth=3)
        await active(three, "EURUSD", types=["orderbook"], depth=25)
        publish(server, book(1), book(2, 2))
        for client, depth in ((one, 10), (two, 3), (three, 25)):
            first, second = [await next_of(client, "orderbook") for _ in range(2)]
            assert (first["seq"], first["depth"], len(first["bids"])) == (1, depth, depth)
            assert first["bids"][0] == [100, 1.5]
            assert (second["seq"], len(second["bids"])) == (2, 2)
        assert {feed.variant for feed in server.supervisor.brokers["one"].demand.current()} == {"25"}
        await active(two, "EURUSD", types=["orderbook"], depth=1)
        publish(server, book(3))
        assert len((await next_of(two, "orderbook"))["bids"]) == 1


async def test_a_full_book_begins_with_all_levels_for_whoever_comes_whenever() -> None:
    async with (
        open_stream_server(types=TYPES) as server,
        open_client(server.url) as early,
        open_client(server.url) as late,
    ):
        ack = await active(early, "EURUSD", types=["orderbook"], depth="full")
        assert ack["results"][0]["depth"] == ack["subscriptions"][0]["depth"] == "full"
        publish(
            server, full(1, (100.0, 1.5), (99.0, 2.5), action="snapshot"), full(2, (99.0, 0.0), (98.0, 1.0))
        )
        publish(server, full(3, (100.0, 3.5)))
        got = [await next_of(early, "orderbook") for _ in range(3)]
        assert [(m["seq"], m.get("snapshot"), m["bids"]) for m in got] == [
            (1, True, [[100, 1.5], [99, 2.5]]),
            (2, None, [[99, 0], [98, 1]]),
            (3, None, [[100, 3.5]]),
        ]
        await late.send(
            {"action": "subscribe", "symbols": ["EURUSD"], "types": ["orderbook"], "depth": "full"}
        )
        whole = await late.get()
        assert (whole["type"], whole["seq"], whole["snapshot"]) == ("orderbook", 3, True)
        assert whole["bids"] == [[100, 3.5], [98, 1]]
        assert (await late.get())["type"] == "ack"
        publish(server, full(4, (97.0, 1.0)))
        after = await next_of(late, "orderbook")
        assert (after["seq"], "snapshot" in after, after["bids"]) == (4, False, [[97, 1]])
        # once more subscribed changes nothing, and nobody who is left keeps the book
        assert (await active(late, "EURUSD", types=["orderbook"], depth="full"))["type"] == "ack"
        for client in (early, late):
            await client.ask({"action": "unsubscribe"})
        assert not server.router._books.topics()


async def test_a_slow_client_of_a_full_book_gets_it_whole_instead_of_a_hole() -> None:
    async with open_stream_server(types=TYPES) as server, open_raw(server.port) as slow:
        await slow.send_text(
            '{"action":"subscribe","symbols":["EURUSD"],"types":["orderbook"],"depth":"full"}'
        )
        await slow.frames_until_end(most=1, of=b'"active"')
        slow._pending = b""
        total = 20_000
        publish(server, full(0, *levels(500, best=1000.0), action="snapshot"))
        for n in range(1, total):
            publish(server, full(n, (1000.0 - n % 500, 1.5 + n)))
            if n % 200 == 0:
                await trio.lowlevel.checkpoint()
        (session,) = server.clients.sessions
        assert session.sink.behind
        assert session.sink._backlog.size < 1 << 20
        frames = await slow.frames_until_end(most=1, of=b'"seq":%d,' % total)
        book: dict[float, float] = {}
        last = snapshots = 0
        for opcode, payload in frames:
            message = json.loads(payload) if opcode == 1 else {}
            if message.get("type") != "orderbook":
                continue
            assert message["seq"] == last + 1 + message.get("conflated", 0)
            last = message["seq"]
            if message.get("snapshot"):
                snapshots += 1
                book.clear()
            else:
                assert "conflated" not in message
            book.update(map(tuple, message["bids"]))
        whole = server.router.last(Topic("one", "EURUSD", "orderbook", "full"))
        assert whole is not None
        assert isinstance(whole.record, OrderBook)
        assert last == total
        assert snapshots > 1
        assert book == dict(whole.record.bids)


async def test_a_client_can_hold_a_full_book_and_the_best_levels_and_let_go_of_either() -> None:
    async with open_stream_server(types=TYPES) as server, open_client(server.url) as client:
        await active(client, "EURUSD", types=["orderbook"], depth="full")
        ack = await active(client, "EURUSD", types=["orderbook"], depth=5)
        assert [row["depth"] for row in ack["subscriptions"]] == ["full", 5]
        books = {"action": "unsubscribe", "types": ["orderbook"]}
        other = await client.ask({**books, "symbols": ["EURUSD"], "depth": 6})
        assert [row["status"] for row in other["results"]] == ["error"]
        ack = await client.ask({**books, "depth": "full"})
        assert [(row["status"], row["depth"]) for row in ack["results"]] == [("removed", "full")]
        assert [row["depth"] for row in ack["subscriptions"]] == [5]


# -- slow ----------------------------------------------------------------------------------------------


async def test_with_close_nothing_is_conflated_and_past_the_bound_the_client_is_closed() -> None:
    async with open_stream_server(client_buffer_bytes=65536) as server, open_raw(server.port) as slow:
        await slow.subscribe("EURUSD", slow="close")
        (session,) = server.clients.sessions
        for n in range(200_000):
            publish(server, tick("EURUSD", n))
            if n % 200 == 0:
                await trio.lowlevel.checkpoint()
            if session.close_code is not None:
                break
        frames = await slow.frames_until_end()
        messages = [json.loads(payload) for opcode, payload in frames if opcode == 1]
        ticks = [m for m in messages if m["type"] == "tick"]
        assert [m["seq"] for m in ticks] == list(range(1, len(ticks) + 1))
        assert not any("conflated" in m for m in ticks)
        assert messages[-1]["code"] == 407
        assert int.from_bytes(frames[-1][1][:2], "big") == 1013
        assert server.value("records_conflated_total") == 0


# -- rate_ms -------------------------------------------------------------------------------------------


async def test_at_a_rate_the_latest_wins_and_says_what_it_stands_for() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as paced,
        open_client(server.url) as other,
    ):
        await active(paced, "EURUSD", "GBPUSD", types=["tick", "trade"], rate_ms=200)
        await active(other, "EURUSD")
        began = trio.current_time()
        for n in range(1, 6):
            publish(server, tick("EURUSD", n))
        publish(server, tick("GBPUSD", 1), Trade("EURUSD", T0, 1.5, 1.0), Trade("EURUSD", T0, 1.5, 2.0))
        got = [await next_of(paced, "tick", "trade") for _ in range(4)]
        assert [(m["type"], m["symbol"], m["seq"]) for m in got] == [
            ("tick", "EURUSD", 1),
            ("tick", "GBPUSD", 1),
            ("trade", "EURUSD", 1),
            ("trade", "EURUSD", 2),
        ]
        last = await next_of(paced, "tick")
        assert (last["seq"], last["conflated"]) == (5, 3)
        assert trio.current_time() - began > 0.15
        assert [m["seq"] for m in await ticks_until(other, 5)] == [1, 2, 3, 4, 5]
        assert server.value("records_conflated_total") == 3


async def test_who_joins_a_rate_in_between_gets_no_record_twice_and_none_unexplained() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as one,
        open_client(server.url) as two,
        open_client(server.url) as three,
    ):
        await active(one, "EURUSD", rate_ms=300)
        for n in range(1, 4):
            publish(server, tick("EURUSD", n))
        await next_of(one, "tick")
        await two.send({"action": "subscribe", "symbols": ["EURUSD"], "rate_ms": 300, "snapshot": True})
        assert (await next_of(two, "tick"))["seq"] == 3
        assert (await next_of(two, "ack"))["results"][0]["status"] == "active"
        await three.send({"action": "subscribe", "symbols": ["EURUSD"], "rate_ms": 300})
        await next_of(three, "ack")
        await one.send(
            {"action": "subscribe", "symbols": ["GBPUSD"], "rate_ms": 300}
        )  # keeps what it waits for
        assert (await next_of(one, "tick"))["conflated"] == 1
        publish(server, tick("EURUSD", 4), tick("EURUSD", 5))
        for client in (one, two, three):
            (message,) = await ticks_until(client, 5)
            assert (message["seq"], message["conflated"]) == (5, 1)


async def test_what_waits_is_sent_when_its_terms_change() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await active(client, "EURUSD", rate_ms=60_000)
        for n in range(1, 4):
            publish(server, tick("EURUSD", n))
        assert (await next_of(client, "tick"))["seq"] == 1
        await client.send({"action": "subscribe", "symbols": ["EURUSD"]})
        held = await next_of(client, "tick")
        assert (held["seq"], held["conflated"]) == (3, 1)
        await next_of(client, "ack")
        publish(server, tick("EURUSD", 4))
        assert (await next_of(client, "tick"))["seq"] == 4


async def test_a_gap_does_not_overtake_what_waits() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await active(client, "EURUSD", rate_ms=60_000)
        publish(server, tick("EURUSD", 1), tick("EURUSD", 2), tick("EURUSD", 3))
        host = server.brokers["one"].host
        assert host is not None
        host.gap("missed")
        publish(server, tick("EURUSD", 4))
        got = [await next_of(client, "tick", "gap") for _ in range(3)]
        assert [(m["type"], m.get("seq"), m.get("conflated")) for m in got] == [
            ("tick", 1, None),
            ("tick", 3, 1),
            ("gap", None, None),
        ]


async def test_a_full_book_at_a_rate_is_whole_again_each_time() -> None:
    async with open_stream_server(types=TYPES) as server, open_client(server.url) as client:
        await active(client, "EURUSD", types=["orderbook"], depth="full", rate_ms=100)
        publish(server, full(1, (100.0, 1.5), action="snapshot"))
        publish(server, full(2, (99.0, 1.5)), full(3, (98.0, 1.5)))
        await next_of(client, "orderbook")
        second = await next_of(client, "orderbook")
        assert (second["seq"], second["snapshot"], second["conflated"]) == (3, True, 1)
        assert second["bids"] == [[100, 1.5], [99, 1.5], [98, 1.5]]


# -- all symbols of a broker ---------------------------------------------------------------------------


async def test_a_star_is_all_that_a_broker_streams_now_and_later_and_one_entry() -> None:
    async with (
        open_stream_server(["one", "two"]) as server,
        open_client(server.url) as every,
        open_client(server.url) as asking,
    ):
        await active(asking, "EURUSD", "BTCUSDT", types=["tick", "trade"], broker="one")
        ack = await every.subscribe("*", types=["tick"], broker="one")
        assert [(row["symbol"], row["status"]) for row in ack["results"]] == [("*", "active")]
        assert ack["subscriptions"] == [{"broker": "one", "symbol": "*", "type": "tick"}]
        assert "*" not in {feed.symbol for feed in server.supervisor.brokers["one"].demand.current()}
        publish(server, tick("EURUSD", 1), Trade("EURUSD", T0, 1.5, 1.0), tick("BTCUSDT", 1))
        got = [await next_of(every, "tick", "trade") for _ in range(2)]
        assert [(m["type"], m["symbol"]) for m in got] == [("tick", "EURUSD"), ("tick", "BTCUSDT")]
        await active(asking, "GBPUSD", broker="one")
        publish(server, tick("GBPUSD", 1))
        assert (await next_of(every, "tick"))["symbol"] == "GBPUSD"
        (entry,) = [topic for topic in server.router._audiences if topic.symbol == "*"]
        assert entry == Topic("one", "*", "tick")
        gone = await every.ask({"action": "unsubscribe", "symbols": ["*"], "broker": "one"})
        assert [(row["symbol"], row["status"]) for row in gone["results"]] == [("*", "removed")]
        publish(server, tick("GBPUSD", 2))
        assert (await every.ask({"action": "ping"}))["type"] == "pong"


async def test_a_symbol_by_name_and_by_star_comes_once_on_its_own_terms() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as client,
        open_client(server.url) as asking,
    ):
        await active(asking, "EURUSD", "GBPUSD")
        await active(client, "*", broker="one")
        await active(client, "EURUSD", received=True)
        publish(server, tick("EURUSD", 1), tick("GBPUSD", 1))
        publish(server, tick("EURUSD", 2))
        got = [await next_of(client, "tick") for _ in range(3)]
        assert sorted((m["symbol"], m["seq"], "received" in m) for m in got) == [
            ("EURUSD", 1, True),
            ("EURUSD", 2, True),
            ("GBPUSD", 1, False),
        ]


async def test_a_star_with_a_snapshot_a_rate_and_heartbeats() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as client,
        open_client(server.url) as asking,
    ):
        await active(asking, "EURUSD", "GBPUSD")
        publish(server, tick("EURUSD", 1), tick("GBPUSD", 1))
        await client.send(
            {
                "action": "subscribe",
                "symbols": ["*"],
                "types": ["tick", "heartbeat"],
                "broker": "one",
                "snapshot": True,
                "rate_ms": 100,
            }
        )
        first = [await next_of(client, "tick") for _ in range(2)]
        assert [(m["symbol"], m["snapshot"]) for m in first] == [("EURUSD", True), ("GBPUSD", True)]
        await next_of(client, "ack")
        for n in range(2, 5):
            publish(server, tick("EURUSD", n), tick("GBPUSD", n))
        got = [await next_of(client, "tick") for _ in range(4)]
        assert [(m["symbol"], m["seq"], m.get("conflated")) for m in got] == [
            ("EURUSD", 2, None),
            ("GBPUSD", 2, None),
            ("EURUSD", 4, 1),
            ("GBPUSD", 4, 1),
        ]
        seqs: dict[str, int] = {}
        while seqs != {"EURUSD": 4, "GBPUSD": 4}:
            beat = await next_of(client, "heartbeat")
            seqs |= {row[1]: row[3] for row in beat["seqs"]}


async def test_a_star_shows_the_holes_that_topics_are_in() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as client,
        open_client(server.url) as asking,
    ):
        await active(asking, "EURUSD")
        publish(server, tick("EURUSD", 1))
        host = server.brokers["one"].host
        assert host is not None
        host.gap("missed")
        await active(client, "*", broker="one")
        hole = await next_of(client, "gap")
        assert (hole["symbol"], hole["cause"], "to" in hole) == ("EURUSD", "missed", False)
        publish(server, tick("EURUSD", 2))
        got = [await next_of(client, "gap", "tick") for _ in range(2)]
        assert [m["type"] for m in got] == ["gap", "tick"]


async def test_a_star_shows_what_the_key_may_see_now() -> None:
    def auth(symbols: tuple[str, ...] | None) -> AuthConfig:
        return AuthConfig(
            keys=(KeyEntry("desk", HASH, symbols=symbols, brokers=("one",)), KeyEntry("all", OTHER_HASH))
        )

    async with (
        open_stream_server(["one", "two"], auth=auth(("EURUSD",))) as server,
        open_client(server.url) as desk,
        open_client(server.url) as asking,
    ):
        await asking.ask({"action": "auth", "key": OTHER_KEY})
        await active(asking, "EURUSD", "GBPUSD", broker="one")
        await desk.ask({"action": "auth", "key": KEY})
        assert [row["code"] for row in (await desk.subscribe("*", broker="two"))["results"]] == [409]
        ack = await active(desk, "*", "GBPUSD", broker="one")
        assert [row.get("code") for row in ack["results"]] == [None, 409]
        publish(server, tick("GBPUSD", 1), tick("EURUSD", 1))
        assert (await next_of(desk, "tick"))["symbol"] == "EURUSD"
        server.take(auth=auth(("GBPUSD",)))
        publish(server, tick("EURUSD", 2), tick("GBPUSD", 2))
        assert (await next_of(desk, "tick"))["symbol"] == "GBPUSD"
        server.take(auth=auth(None))
        publish(server, tick("EURUSD", 3))
        assert (await next_of(desk, "tick"))["seq"] == 3


async def test_a_star_needs_a_broker_and_spoils_nothing_else() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("*", "EURUSD", id=3)
        bad, good = ack["results"]
        assert (bad["symbol"], bad["code"]) == ("*", 400)
        assert bad["message"].startswith('symbols: "*" needs a broker')
        assert good["status"] in ("pending", "active")
        error = await client.subscribe("*", broker="one", since=1)
        while error["type"] != "error":
            error = await client.get()
        assert (error["code"], error["message"][:6]) == (400, "since:")


# -- bad input -----------------------------------------------------------------------------------------

WRONG: list[Any] = [None, True, False, "", "x", "10", [], [10], {}, 1.5, 0, -1, 10**30, 26]


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
async def test_a_wrong_depth_is_named(action: str) -> None:
    async with open_stream_server(types=TYPES) as server, open_client(server.url) as client:
        for number, wrong in enumerate(WRONG):
            error = await client.ask(
                {
                    "action": action,
                    "symbols": ["EURUSD"],
                    "types": ["orderbook"],
                    "depth": wrong,
                    "id": number,
                }
            )
            assert (error["type"], error["code"], error["id"]) == ("error", 400, number)
            assert error["message"].startswith('depth: expected a whole number from 1 to 25 or "full", got ')


@pytest.mark.parametrize(
    ("field", "wrongs", "message"),
    [
        (
            "rate_ms",
            [*(w for w in WRONG[:-1] if w != 0 or w is False), 60_001],
            "rate_ms: expected a whole number from 0 to 60000, got ",
        ),
        ("slow", WRONG, 'slow: expected "conflate" or "close", got '),
    ],
)
async def test_a_wrong_rate_or_way_is_named(field: str, wrongs: list[Any], message: str) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        for number, wrong in enumerate(wrongs):
            error = await client.subscribe("EURUSD", id=number, **{field: wrong})
            assert (error["type"], error["code"], error["id"]) == ("error", 400, number)
            assert error["message"].startswith(message)
        assert (await client.ask({"action": "list"}))["subscriptions"] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 5}, "depth: belongs to the type orderbook, got it with tick"),
        ({"types": ["trade"], "rate_ms": 100}, "rate_ms: belongs to the type tick and orderbook and candle"),
    ],
)
async def test_a_field_that_says_nothing_of_the_types_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    async with open_stream_server(types=TYPES) as server, open_client(server.url) as client:
        error = await client.subscribe("EURUSD", **fields)
        assert (error["code"], error["message"][: len(message)]) == (400, message)
