"""What a client is told besides new records: the last ones at the beginning, and how far its topics are."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mdserver.model import Feed, OrderBook, Tick, Trade

from .conftest import Client, open_client, open_stream_server

T0 = 1_710_918_000_000_000


def tick(symbol: str, n: int) -> Tick:
    return Tick(symbol, T0 + n, 1.0, 2.0)


async def next_of(client: Client, kind: str) -> Any:
    while True:
        message = await client.get()
        if message["type"] == kind:
            return message


@pytest.mark.parametrize("field", ["snapshot", "received"])
@pytest.mark.parametrize("value", [1, 0, "true", [], {}, None])
async def test_a_wrong_flag_is_named(field: str, value: Any) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        error = await client.subscribe("EURUSD", id=7, **{field: value})
        assert (error["type"], error["code"], error["id"]) == ("error", 400, 7)
        assert error["message"].startswith(f"{field}: expected true or false")


@pytest.mark.parametrize("window_s", [0.0, 0.05])
async def test_a_snapshot_comes_first_and_nothing_between_it_and_live_is_missing(window_s: float) -> None:
    async with (
        open_stream_server(window_s=window_s) as server,
        open_client(server.url) as first,
        open_client(server.url) as client,
    ):
        await first.subscribe("EURUSD", "BTCUSDT", types=["tick", "trade"])
        await next_of(first, "ack")
        broker = server.brokers["one"]
        broker.publish(tick("EURUSD", 1), tick("EURUSD", 2), Trade("BTCUSDT", T0, 5.0, 1.0))
        await next_of(first, "trade")
        broker.publish(tick("EURUSD", 3))
        await client.send(
            {
                "action": "subscribe",
                "symbols": ["EURUSD", "BTCUSDT"],
                "types": ["tick", "trade"],
                "snapshot": True,
                "received": True,
            }
        )
        last_tick, last_trade = await client.get(), await client.get()
        assert (last_tick["seq"], last_tick["snapshot"], "received" in last_tick) == (3, True, True)
        assert (last_trade["type"], last_trade["seq"], last_trade["snapshot"]) == ("trade", 1, True)
        await next_of(client, "ack")
        broker.publish(tick("EURUSD", 4))
        live = await next_of(client, "tick")
        assert (live["seq"], "snapshot" in live) == (4, False)


async def test_a_snapshot_of_nothing_is_nothing_and_goes_not_with_since() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        assert (await client.subscribe("EURUSD", snapshot=True))["type"] == "ack"
        await client.send(
            {"action": "subscribe", "symbols": ["GBPUSD"], "snapshot": True, "since": 1_710_918_000}
        )
        error = await next_of(client, "error")
        assert error["code"] == 400
        assert error["message"].startswith("snapshot: not together with since")


async def test_heartbeats_name_what_changed_of_the_clients_own_topics() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as other,
        open_client(server.url) as client,
    ):
        await other.subscribe("GBPUSD")
        await client.subscribe("EURUSD", "USDJPY")
        ack = await client.ask({"action": "subscribe", "types": ["heartbeat"]})
        while ack["results"][0]["type"] != "heartbeat":
            ack = await client.get()
        beats = {"broker": "*", "symbol": "*", "type": "heartbeat"}
        assert ack["results"] == [{**beats, "status": "active"}]
        assert beats in ack["subscriptions"]
        assert (await next_of(client, "heartbeat"))["n"] == 1
        server.brokers["one"].publish(tick("EURUSD", 1), tick("EURUSD", 2), tick("GBPUSD", 1))
        assert (await next_of(client, "tick"))["seq"] == 1
        assert (await next_of(client, "tick"))["seq"] == 2
        beat = await next_of(client, "heartbeat")
        assert (beat["n"], beat["seqs"]) == (2, [["one", "EURUSD", "tick", 2]])
        quiet = await next_of(client, "heartbeat")
        assert (quiet["n"], quiet["seqs"]) == (3, [])
        ack = await client.ask({"action": "unsubscribe", "types": ["heartbeat"]})
        assert [row["type"] for row in ack["subscriptions"]] == ["tick", "tick"]
        with trio.move_on_after(1.5):
            pytest.fail(f"{await client.connection.get_message()} after the end of heartbeats")


async def test_heartbeats_tell_the_books_of_a_symbol_apart() -> None:
    books = [
        OrderBook("EURUSD", T0 + n, ((1.0, 1.0),), (), "snapshot", depth)
        for n, depth in enumerate(("25", "full"))
    ]
    async with open_stream_server(types=("orderbook",)) as server, open_client(server.url) as client:
        broker = server.brokers["one"]
        for depth in (5, "full"):
            await client.send(
                {"action": "subscribe", "symbols": ["EURUSD"], "types": ["orderbook"], "depth": depth}
            )
            while (await next_of(client, "ack"))["results"][0]["status"] != "active":
                pass
        await client.ask({"action": "subscribe", "types": ["heartbeat"]})
        broker.publish(books[0], books[0], books[1])
        seqs: list[Any] = []
        with trio.fail_after(5):
            while len(seqs) < 2:
                seqs += (await next_of(client, "heartbeat"))["seqs"]
        assert sorted(seqs) == [
            ["one", "EURUSD", "orderbook", 1, "full"],
            ["one", "EURUSD", "orderbook", 2, 5],
        ]


async def test_heartbeats_of_all_symbols_name_depths_too() -> None:
    book = OrderBook("EURUSD", T0, ((1.0, 1.0),), (), "snapshot", "25")
    async with open_stream_server(types=("orderbook",)) as server, open_client(server.url) as client:
        server.supervisor.brokers["one"].demand.hold(Feed("EURUSD", "orderbook", "25"))
        await client.subscribe("*", broker="one", types=["orderbook", "heartbeat"], depth=7)
        server.brokers["one"].publish(book)
        seqs: list[Any] = []
        with trio.fail_after(5):
            while not seqs:
                seqs = (await next_of(client, "heartbeat"))["seqs"]
        assert seqs == [["one", "EURUSD", "orderbook", 1, 7]]


async def test_other_types_than_heartbeats_need_symbols() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        error = await client.ask({"action": "subscribe", "types": ["heartbeat", "tick"]})
        assert (error["code"], error["message"]) == (400, "symbols: expected a list of strings, got nothing")
