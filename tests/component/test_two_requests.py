"""Requests of one client one after the other: what one of them does is no business of the next one's topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from mdserver.model import Published, Tick, Topic
from mdserver.stream.stored_past import Begin, GapKey, Page, Start

from .conftest import open_client, open_stream_server
from .test_session_model import T0_US, MemoryPast

FIRST, SECOND = Topic("one", "AAA", "tick"), Topic("one", "BBB", "tick")


def tick(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, T0_US + seq, 1.0, 1.1))


class SlowPast(MemoryPast):
    """The first topic's replay ends while it is looked up where the second one's begins."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = trio.Event(), trio.Event()

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        if SECOND in starts:
            self.asked.set()
            await self.go_on.wait()
        return await super().begins(starts)

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey] = frozenset()
    ) -> Page:
        await self.asked.wait()
        return await super().page(topic, after, limit, received=received, told=told)


async def test_the_end_of_a_replay_makes_no_topic_live_whose_own_replay_is_to_come() -> None:
    past = SlowPast()
    past.add([tick(topic, seq) for topic in (FIRST, SECOND) for seq in range(1, 4)])
    async with (
        open_stream_server(storing=lambda router, _: (router.publish, past)) as server,
        open_client(server.url) as client,
    ):
        got: list[Any] = []

        async def until_replayed(times: int) -> None:
            with trio.fail_after(30):
                while sum(one.get("message") == "replay complete" for one in got) < times:
                    got.append(await client.get())

        for topic in FIRST, SECOND:
            request = {"action": "subscribe", "broker": "one", "symbols": [topic.symbol], "since": {"seq": 0}}
            await client.send(request)
        await until_replayed(1)
        new = [tick(SECOND, 4)]
        past.add(new)
        server.router.publish(new)
        past.go_on.set()
        await until_replayed(2)
    ticks = [(one["symbol"], one["seq"]) for one in got if one["type"] == "tick"]
    assert [seq for symbol, seq in ticks if symbol == "BBB"] == [1, 2, 3, 4]
