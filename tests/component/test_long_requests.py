"""Requests that are long hold up nobody: they are worked on in slices, and what happens meanwhile is not lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio

from mdserver.model import Feed
from mdserver.protocol.answers import PIECE, Outcome, Subscription, ack
from mdserver.protocol.encoding import PLAIN_WIRE, wire_of
from mdserver.protocol.server_frames import payloads
from mdserver.web.stream.session import SLICE

from .conftest import Client, StreamServer, open_client, open_stream_server

SYMBOLS = [f"S{n:04}" for n in range(3_000)]
BIG = {"max_symbols": 5_000, "client_buffer_bytes": 1 << 24}


async def turns_while(work: Any) -> int:
    """Return how often another task had its turn while ``work`` ran."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        await work
        nursery.cancel_scope.cancel()
    return turns - before


async def outcomes(client: Client, wanted: int) -> dict[str, str]:
    """Return the last status of each symbol once ``wanted`` of them are settled."""
    found: dict[str, str] = {}
    with trio.fail_after(30):
        while sum(status != "pending" for status in found.values()) < wanted:
            for result in (await client.get())["results"]:
                found[result["symbol"]] = result["status"]
    return found


async def test_a_long_subscribe_and_unsubscribe_let_others_run() -> None:
    async with open_stream_server(**BIG) as server, open_client(server.url) as client:
        (session,) = server.clients.sessions
        request = json.dumps({"action": "subscribe", "symbols": SYMBOLS, "types": ["tick", "trade"]})
        assert await turns_while(session.handle(request)) >= 2 * len(SYMBOLS) / SLICE
        first = await client.get()
        assert len(first["results"]) == len(first["subscriptions"]) == 2 * len(SYMBOLS)
        await outcomes(client, len(SYMBOLS))
        assert await turns_while(session.handle('{"action":"unsubscribe"}')) >= 2 * len(SYMBOLS) / SLICE
        with trio.fail_after(30):
            while (told := await client.get())["action"] != "unsubscribe":
                pass
        assert (len(told["results"]), told["subscriptions"]) == (2 * len(SYMBOLS), [])


async def test_what_a_venue_says_meanwhile_comes_behind_the_answer() -> None:
    async with open_stream_server(**BIG) as server, open_client(server.url) as client:
        server.brokers["one"].refuses = dict.fromkeys(SYMBOLS[:1_500], "no such pair")
        await client.send({"action": "subscribe", "symbols": SYMBOLS, "id": 1})
        first = await client.get()
        assert (first["id"], len(first["results"])) == (1, len(SYMBOLS))
        found = {result["symbol"]: result["status"] for result in first["results"]}
        found |= await outcomes(client, sum(status == "pending" for status in found.values()))
        assert [found[symbol] for symbol in SYMBOLS] == ["error"] * 1_500 + ["active"] * 1_500
        listing = await client.ask({"action": "list"})
        assert [one["symbol"] for one in listing["subscriptions"]] == SYMBOLS[1_500:]


async def held(server: StreamServer) -> int:
    return len(server.supervisor.brokers["one"].demand.current())


async def test_a_client_that_leaves_lets_go_of_everything_in_slices() -> None:
    async with open_stream_server(**BIG) as server:
        async with open_client(server.url) as stays:
            await stays.subscribe(SYMBOLS[0])
            async with open_client(server.url) as leaves:
                await leaves.send({"action": "subscribe", "symbols": SYMBOLS})
                await outcomes(leaves, len(SYMBOLS))
                (session,) = [one for one in server.clients.sessions if len(one._held.topics) > 1]
            with trio.fail_after(30):
                while await held(server) > 1:
                    await trio.sleep(0.01)
            assert server.supervisor.brokers["one"].demand.current() == {Feed(SYMBOLS[0], "tick")}
            assert not session.release_some()
            assert (await stays.ask({"action": "ping"}))["type"] in ("pong", "ack")


@pytest.mark.parametrize("count", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_long_answer_is_whole(count: int) -> None:
    results = [Outcome("b", f"S{n}", "tick", "active") for n in range(count)]
    topics = [Subscription("b", f"S{n}", "tick") for n in range(count)]
    data = ack(PLAIN_WIRE, "x", "list", results, topics)
    (packed,) = payloads(ack(wire_of("msgpack"), "x", "list", results, topics))
    head = {0x7E: 4, 0x7F: 10}.get(data[1], 2)
    document = json.loads(data[head:])
    assert msgspec.msgpack.decode(packed) == document
    assert list(document) == ["type", "id", "action", "results", "subscriptions"]
    assert [one["symbol"] for one in document["results"]] == [f"S{n}" for n in range(count)]
    assert document["results"] == [one | {"status": "active"} for one in document["subscriptions"]]
