"""A server that is behind others: what it streams later, a client may have from them or from the database already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import trio

from mdserver.daemon.past_of_store import PastOfStore
from mdserver.model import Published, Tick, Topic
from mdserver.stream import replay
from mdserver.stream.stored_past import After, Begin, Start

from .conftest import open_client, open_stream_server
from .test_session_model import T0_US, MemoryPast

TOPIC = Topic("one", "AAA", "tick")


def tick(seq: int) -> Published:
    return Published(TOPIC, seq, Tick("AAA", T0_US + seq, 1.0, 1.1))


class PastOfOthers(MemoryPast):
    """Another process stores; ``here`` is the last number that this one has streamed."""

    here = 0

    def is_behind(self, after: Mapping[Topic, int]) -> bool:
        return any(seq > self.here for seq in after.values())


async def test_a_client_that_knows_more_than_this_server_gets_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "BEHIND_S", 0.01)
    past = PastOfOthers()
    past.add([tick(seq) for seq in range(1, 6)])
    async with (
        open_stream_server(storing=lambda router, _: (router.publish, past)) as server,
        open_client(server.url) as client,
    ):
        got: list[Any] = []

        async def until(last: object) -> None:
            with trio.fail_after(30):
                while not got or got[-1] != last:
                    message = await client.get()
                    got.append(message.get("seq", message.get("message")))

        await client.subscribe("AAA", broker="one", since={"seq": 1})
        await until(5)
        server.router.publish([tick(seq) for seq in range(3, 5)])  # what others had long ago
        past.add([tick(6)])
        await until(6)
        server.router.publish([tick(5), tick(6)])
        past.here = 6
        await until("replay complete")
        server.router.publish([tick(7)])
        await until(7)
    assert [one for one in got if type(one) is int] == [2, 3, 4, 5, 6, 7]


class Store:
    """Says that numbers above ``last`` are not stored, as :class:`mdserver.store.store.Store` does."""

    last = 5

    def __init__(self) -> None:
        self.asked = 0

    async def replay_begins(self, starts: Mapping[Topic, Start]) -> dict[Topic, Begin]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return {
            topic: Begin(start.seq, "above", is_above=True) if start.seq > self.last else Begin(start.seq)
            for topic, start in starts.items()
            if isinstance(start, After)
        }

    async def replay_series(self, topics: object) -> dict[Topic, Any]:
        await trio.lowlevel.checkpoint()
        return {TOPIC: (None, self.last)}


@pytest.mark.parametrize(
    ("stored", "here", "begins"),
    [
        (7, 0, Begin(7)),  # stored while the client waits
        (5, 7, Begin(7)),  # not stored, but streamed here
        (5, 5, Begin(5, "above")),
    ],
)
async def test_a_number_that_is_not_stored_yet_may_be_another_processs(
    stored: int, here: int, begins: Begin, autojump_clock: object
) -> None:
    store, storing = cast("Any", Store()), cast("Any", None)  # which is not asked here
    past = PastOfStore(store, storing, lambda after: any(seq > here for seq in after.values()))
    async with trio.open_nursery() as nursery:

        async def store_later() -> None:
            await trio.sleep(1)
            store.last = stored

        nursery.start_soon(store_later)
        assert await past.begins({TOPIC: After(7)}) == {TOPIC: begins}
    assert store.asked > 1
