"""Fan-out without sockets."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdserver.metrics import Metrics
from mdserver.model import Gap, OrderBook, Published, Tick, Topic
from mdserver.protocol.encoding import PLAIN, PLAIN_WIRE, encoding
from mdserver.protocol.server_frames import text_payloads
from mdserver.protocol.terms import PLAIN_TERMS, Terms
from mdserver.stream.audience import Owed
from mdserver.stream.router import Router

TOPICS = [Topic("mock", symbol, "tick") for symbol in "ABCD"]
TIMED = Terms(encoding(PLAIN_WIRE, received=True))


def plain(topics: Iterable[Topic]) -> dict[Topic, Terms]:
    return dict.fromkeys(topics, PLAIN_TERMS)


class RecordingSink:
    """Takes everything, or holds it back while ``behind``; through ``descriptor`` what its socket takes."""

    def __init__(self, descriptor: int = -1) -> None:
        self.behind = False
        self.descriptor = descriptor
        self.parked: list[bytes] = []
        self.writes: list[bytes] = []
        self.offered: list[Published] = []

    def write(self, frames: bytes) -> None:
        self.writes.append(frames)

    def park(self, rest: bytes) -> None:
        self.behind = True
        self.descriptor = -1
        self.parked.append(rest)

    def offer(self, owed: Owed) -> None:
        self.offered.append(owed.published)

    def seqs(self) -> list[tuple[str, int]]:
        texts = [json.loads(text) for frames in self.writes for text in text_payloads(frames)]
        return [(message["symbol"], message["seq"]) for message in texts]


def record(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, 1, 1.0, 2.0))


def test_a_record_that_cannot_be_encoded_costs_its_batch_and_no_other() -> None:
    router, sink = Router(Metrics()), RecordingSink()
    router.set_topics(sink, plain(TOPICS[:2]))
    bad = record(Topic("mock", "\ud83d", "tick"), 1)
    other = RecordingSink()
    router.set_topics(other, plain([bad.topic]))
    with pytest.raises(UnicodeEncodeError):
        router.publish([record(TOPICS[0], 1), bad])
    router.publish([record(TOPICS[0], 2), record(TOPICS[0], 3)])
    assert sink.seqs() == [("A", 2), ("A", 3)]


def test_a_pass_is_one_write_per_client() -> None:
    router, sink = Router(Metrics()), RecordingSink()
    router.set_topics(sink, plain(TOPICS[:2]))
    router.publish([record(TOPICS[0], 1), record(TOPICS[1], 1), record(TOPICS[2], 1), record(TOPICS[0], 2)])
    assert len(sink.writes) == 1
    assert sink.seqs() == [("A", 1), ("B", 1), ("A", 2)]


def test_clients_with_the_same_topics_share_the_bytes() -> None:
    router, one, two = Router(Metrics()), RecordingSink(), RecordingSink()
    router.set_topics(one, plain(TOPICS[:2]))
    router.set_topics(two, plain(reversed(TOPICS[:2])))
    router.publish([record(TOPICS[0], 1), record(TOPICS[1], 1)])
    assert one.writes[0] is two.writes[0]


def test_a_client_that_is_behind_is_offered_each_record() -> None:
    router, sink = Router(Metrics()), RecordingSink()
    router.set_topics(sink, plain(TOPICS))
    sink.behind = True
    router.publish([record(TOPICS[0], 1), record(TOPICS[1], 1)])
    assert [p.topic.symbol for p in sink.offered] == ["A", "B"]
    assert not sink.writes


@pytest.mark.parametrize("together", [1, 2])
def test_a_write_that_fails_or_stops_midway_concerns_nobody_else(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five clients the second cannot be written to, and the fourth takes a part only."""
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(5)]
        for ours, _ in pairs:
            ours.setblocking(False)
        full, narrow = pairs[1][0], pairs[3][0].fileno()
        with suppress(BlockingIOError):
            while True:
                full.send(bytes(4096))
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10] if fd == narrow else data))
        router, sinks = Router(Metrics()), [RecordingSink(ours.fileno()) for ours, _ in pairs]
        for sink in sinks:
            router.set_topics(sink, plain(TOPICS[:1]))
        router.set_topics(sinks[4], plain(TOPICS[:2]))  # in a group of its own
        records = [record(TOPICS[0], 1 + number) for number in range(together)]
        router.publish(records)
        frames = b"".join(map(PLAIN.frame, records))
        assert [sink.writes for sink in sinks] == [[], [frames], [], [], []]
        for number in (0, 2, 4):
            assert pairs[number][1].recv(1 << 20) == frames
        assert sinks[3].parked == [frames[10:]]
        router.publish(records)
        assert sinks[3].offered == records
        assert pairs[4][1].recv(1 << 20) == frames


changes = st.lists(
    st.tuples(st.integers(0, 3), st.sets(st.sampled_from(TOPICS))) | st.sampled_from(TOPICS), max_size=40
)


@given(changes)
def test_everyone_gets_exactly_their_topics(steps: list[tuple[int, set[Topic]] | Topic]) -> None:
    router = Router(Metrics())
    sinks = [RecordingSink() for _ in range(4)]
    wanted: list[set[Topic]] = [set() for _ in sinks]
    expected: list[list[tuple[str, int]]] = [[] for _ in sinks]
    seqs = dict.fromkeys(TOPICS, 0)
    for step in steps:
        if isinstance(step, Topic):
            seqs[step] += 1
            router.publish([record(step, seqs[step])])
            for topics, seen in zip(wanted, expected, strict=True):
                if step in topics:
                    seen.append((step.symbol, seqs[step]))
        else:
            who, topics = step
            wanted[who] = topics
            router.set_topics(sinks[who], plain(topics))
    assert [sink.seqs() for sink in sinks] == expected
    for sink, topics in zip(sinks, wanted, strict=True):
        assert router.topics_of(sink) == topics
        router.set_topics(sink, {})
    assert not router._audiences
    assert not router._groups


def test_a_hole_is_told_behind_what_came_before_it() -> None:
    router, sink = Router(Metrics(), window_s=60), RecordingSink()
    router.set_topics(sink, plain(TOPICS[:1]))
    router.publish([record(TOPICS[0], 1)])
    router.publish([Published(TOPICS[0], 1, Gap(TOPICS[0], 1, 2, "disconnected")), record(TOPICS[0], 2)])
    router.flush()
    texts = [json.loads(text) for frames in sink.writes for text in text_payloads(frames)]
    assert [message["type"] for message in texts] == ["tick", "gap", "tick"]


async def test_a_window_joins_batches_and_loses_none_at_the_end(autojump_clock: object) -> None:
    router, sink = Router(Metrics(), 0.005), RecordingSink()
    router.set_topics(sink, plain(TOPICS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.run)
        await trio.testing.wait_all_tasks_blocked()
        router.publish([record(TOPICS[0], 1)])
        router.publish([record(TOPICS[1], 1)])
        assert not sink.writes
        await trio.sleep(0.006)
        assert len(sink.writes) == 1
        router.publish([record(TOPICS[0], 2)])
        nursery.cancel_scope.cancel()
    assert sink.seqs() == [("A", 1), ("B", 1), ("A", 2)]


def test_a_change_of_topics_does_not_take_what_came_before() -> None:
    router, sink = Router(Metrics(), 0.005), RecordingSink()
    router.set_topics(sink, plain(TOPICS[:1]))
    router.publish([record(TOPICS[0], 1), record(TOPICS[1], 1)])
    router.set_topics(sink, plain(TOPICS[:2]))
    assert sink.seqs() == [("A", 1)]


@pytest.mark.parametrize("together", [1, 2])
def test_only_who_asks_gets_the_time_of_receipt(together: int) -> None:
    """One topic with it and one without in the same client, and clients of all three sorts beside each other."""
    router, bare, timed, mixed = Router(Metrics()), RecordingSink(), RecordingSink(), RecordingSink()
    router.set_topics(bare, plain(TOPICS[:2]))
    router.set_topics(timed, dict.fromkeys(TOPICS[:2], TIMED))
    router.set_topics(mixed, {TOPICS[0]: PLAIN_TERMS, TOPICS[1]: TIMED})

    def publish() -> list[list[float | None]]:
        batch = [Published(t, 1, Tick(t.symbol, 1, 1.0, 2.0), 1_500_000) for t in TOPICS[:2]]
        for start in range(0, 2, together):
            router.publish(batch[start : start + together])
        shown = []
        for sink in (bare, timed, mixed):
            texts = [json.loads(text) for frames in sink.writes for text in text_payloads(frames)]
            shown.append([message.get("received") for message in texts])
            sink.writes.clear()
        return shown

    assert publish() == [[None, None], [1.5, 1.5], [None, 1.5]]
    router.set_topics(bare, {})
    assert publish() == [[], [1.5, 1.5], [None, 1.5]]
    router.set_topics(timed, plain(TOPICS[:2]))
    router.set_topics(mixed, {})
    assert publish() == [[], [None, None], []]


def test_a_full_book_outlives_its_last_subscriber_as_long_as_nothing_of_it_is_missing() -> None:
    """Who subscribes before the broker has noticed gets no other snapshot of the venue."""
    router, sink = Router(Metrics()), RecordingSink()
    topic = Topic("mock", "A", "orderbook", "full")

    def publish(seq: int, price: float, action: str) -> None:
        book = OrderBook("A", seq, ((price, 1.0),), (), action, "full")  # type: ignore[arg-type]
        router.publish([Published(topic, seq, book)])

    router.set_topics(sink, plain([topic]))
    publish(1, 5.0, "snapshot")
    router.set_topics(sink, {})
    publish(2, 6.0, "update")
    whole = router.last(topic)
    assert whole is not None
    assert (whole.seq, whole.record) == (
        2,
        OrderBook("A", 2, ((6.0, 1.0), (5.0, 1.0)), (), "snapshot", "full"),
    )
    router.publish([Published(topic, 2, Gap(topic, 2, None, "unsubscribed"))])
    assert router.last(topic) is None, "and no memory is kept for nobody"
    router.set_topics(sink, plain([topic]))
    publish(3, 5.0, "snapshot")
    router.publish([Published(topic, 3, Gap(topic, 3, None, "disconnected"))])
    assert router.last(topic) is not None
    router.set_topics(sink, {})
    assert router.last(topic) is None
