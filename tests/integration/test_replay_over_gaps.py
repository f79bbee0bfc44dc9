"""``since`` over gaps, by chance: whatever a client asks for and when, it gets what a model of the stream says."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import trio
import trio.lowlevel

from mdserver.model import Feed, Tick
from mdserver.store.connection.database import Database
from mdserver.store.recurring_gaps import FEW
from tests.component.conftest import EPOCH

from .storing_server import T0_S, T0_US, Client, StoringServer, open_client, open_storing_server

CAUSES = ("disconnected", "missed", "rejected", "unsubscribed")


class Past:
    """One topic: what was published of it, and behind which number there is a gap of which cause."""

    def __init__(self, server: StoringServer, symbol: str, chance: Random) -> None:
        self.symbol = symbol
        self.last = 0
        self.gaps: dict[int, str] = {}
        self._server = server
        self._chance = chance

    def go_on(self) -> None:
        """Publish some records, or break off in one of the ways, with or without a word when it begins."""
        one = self._server.stream.brokers["one"]
        host, demand = one.host, self._server.stream.supervisor.brokers["one"].demand
        feed = Feed(self.symbol, "tick")
        if not self.last or self._chance.random() < 0.6:
            count = self._chance.choice((1, 2, 30))
            self._server.publish(count, self.symbol)
            self.last += count
            return
        cause = self._chance.choice(CAUSES)
        if cause == "rejected" and list(self.gaps.values()).count(cause) == FEW:
            cause = "missed"  # further ones share a row: test_replay_records has them
        if cause == "unsubscribed":
            while demand.status(feed) is not None:
                demand.release(feed)
            demand.hold(feed)
        elif cause == "rejected":
            one.publish(Tick(self.symbol, T0_US + self.last * 1_000, 2.0, 1.0))
        else:
            host.gap(cause, [feed])
            if self._chance.random() < 0.5:
                host.announce_holes()
        self.gaps.setdefault(self.last, cause)

    def since(self, epoch: str) -> tuple[Any, int]:
        """Return a ``since``, and the number of the first record that it asks for."""
        n = self._chance.randint(0, self.last)
        if self.gaps and self._chance.random() < 0.6:
            n = self._chance.choice(sorted(self.gaps))  # the edge of a gap
        kind = self._chance.choice(("seq", "epoch", "edge", "within", "to"))
        if kind == "seq":
            return {"seq": n}, n + 1
        if kind == "epoch":
            return {"epoch": epoch, "seqs": [["one", self.symbol, "tick", n]]}, n + 1
        if kind == "edge":
            return (T0_US + n * 1_000) / 1e6, max(n, 1)
        return T0_S + (n + (0.5 if kind == "within" else 1)) / 1_000, n + 1


async def test_what_is_asked_for_comes_in_order_with_the_gaps_in_their_places(
    database: Database, tmp_path: Path, long: bool
) -> None:
    async with open_storing_server(database, tmp_path, flush_s=0.02) as server:
        for seed in range(400 if long else 12):
            chance = Random(seed)  # noqa: S311 - reproducible
            past = Past(server, f"S{seed}", chance)
            async with open_client(server.stream.url) as client:
                for _ in range(chance.randint(1, 12)):
                    past.go_on()
                first = 1
                for number in range(chance.randint(1, 3)):  # again and again on one connection
                    since, first = past.since(EPOCH)
                    await client.ws.send(_request(past.symbol, since, number))
                    for _ in range(chance.randint(0, 4)):
                        past.go_on()
                        await trio.lowlevel.checkpoint()
                await _check(client, past, first, number, seed)


def _request(symbol: str, since: Any, number: int) -> str:
    return json.dumps(
        {"action": "subscribe", "symbols": [symbol], "broker": "one", "since": since, "id": number}
    )


async def _check(client: Client, past: Past, first: int, number: int, seed: int) -> None:
    """Read on from the answer to the last request until the last record, and compare."""
    while (message := await client.get()).get("id") != number or message["type"] != "ack":
        assert message["type"] != "error", (seed, message)
    assert message["results"][0]["recovered"] is True, (seed, message)
    past._server.publish(1, past.symbol)
    past.last += 1
    read: list[Any] = []
    last = first - 1
    complete = False
    while last < past.last or not complete:
        message = await client.get()
        if message["type"] == "tick":
            assert message["seq"] == last + 1, (seed, first, message, read)
            read.append(last := message["seq"])
        elif message["type"] == "gap" and "to" in message:
            assert round((message["from"] - T0_S) * 1_000) == last, (seed, message, read)
            read.append(message["cause"])
        complete = complete or message.get("message") == "replay complete"
    expected: list[Any] = []
    for seq in range(first, past.last + 1):
        if seq - 1 in past.gaps:
            expected.append(past.gaps[seq - 1])
        expected.append(seq)
    assert read == expected, (seed, first)
