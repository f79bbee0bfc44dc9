"""What a process takes of a broker that another leads: each record once; what is missing, from the database."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mdserver.bus import followed as followed_module
from mdserver.bus.engine import Entry, Position
from mdserver.bus.followed import BUS, FAILOVER, FETCH_S, LEFT_OUT, Followed, encode_marks
from mdserver.errors import StoreUnavailable
from mdserver.journal.format import FrameEncoder
from mdserver.metrics import Metrics
from mdserver.model import Gap, OrderBook, Published, Tick, Topic

TOPIC = Topic("sea", "EURUSD", "tick")
BOOK = Topic("sea", "EURUSD", "orderbook", "25")
_encoder = FrameEncoder()


def tick(seq: int, topic: Topic = TOPIC) -> Published:
    return Published(topic, seq, Tick("EURUSD", seq, 1.0, 1.1))


def book(seq: int) -> Published:
    return Published(BOOK, seq, OrderBook("EURUSD", seq, (), (), depth="25"))


def gap(seq: int, cause: str, topic: Topic = TOPIC) -> Published:
    return Published(topic, seq, Gap(topic, seq, None, cause))


class Bench:
    """A follower, what it handed on, and the database that it reads."""

    def __init__(self) -> None:
        self.routed: list[Published] = []
        self.stored: list[Published] = []
        self.database: dict[int, Published] = {}
        self.away: str | None = None
        self.reads = 0
        self.metrics = Metrics()
        self.followed = Followed(
            "sea",
            route=self.routed.extend,
            on_stored=self.stored.extend,
            missing=self.missing,
            metrics=self.metrics,
        )
        self.followed.primed = True
        self._number = 0

    async def missing(
        self, topic: Topic, after: int, before: int, from_us: int, to_us: int
    ) -> Sequence[Published]:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.away is not None:
            raise StoreUnavailable(self.away)
        return [self.database[seq] for seq in sorted(self.database) if after < seq < before]

    async def take(self, *batches: Sequence[Published] | bytes) -> None:
        for batch in batches:
            frame = batch if isinstance(batch, bytes) else bytes(_encoder.encode(batch))
            await self.followed.take([Entry(Position(1, self._number), frame)])
            self._number += 1

    @property
    def numbers(self) -> list[int]:
        return [one.seq for one in self.routed if not isinstance(one.record, Gap)]

    @property
    def gaps(self) -> list[tuple[str, int | None]]:
        return [(one.record.cause, one.record.size) for one in self.routed if isinstance(one.record, Gap)]


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps at once: there are neither threads nor sockets to wait for."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_each_record_is_taken_once(bench: Bench) -> None:
    await bench.take([tick(1), tick(2)], [tick(2), tick(3)], [tick(1)])
    assert bench.numbers == [1, 2, 3]
    assert bench.reads == 0


async def test_what_is_missing_is_read_from_the_database_in_order(bench: Bench) -> None:
    bench.database = {seq: tick(seq) for seq in range(1, 9)}
    await bench.take([tick(1)], [tick(6), tick(7)])
    assert bench.numbers == [1, 2, 3, 4, 5, 6, 7]
    assert bench.gaps == []


async def test_what_is_stored_a_moment_later_is_waited_for(bench: Bench, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        await bench.take([tick(1)])
        nursery.start_soon(bench.take, [tick(4)])
        await trio.sleep(1)
        bench.database = {seq: tick(seq) for seq in (2, 3)}
    assert bench.numbers == [1, 2, 3, 4]
    assert trio.current_time() < FETCH_S


async def test_what_is_nowhere_becomes_a_gap(bench: Bench, autojump_clock: object) -> None:
    bench.database = {3: tick(3)}
    await bench.take([tick(1)], [tick(6)])
    assert bench.numbers == [1, 3, 6]
    assert bench.gaps == [(BUS, 1), (BUS, 2)]
    hole = bench.routed[1].record
    assert isinstance(hole, Gap)
    assert (hole.from_us, hole.to_us) == (1, 3)


async def test_nothing_is_waited_for_once_what_came_after_is_stored(bench: Bench) -> None:
    bench.database = {3: tick(3), 6: tick(6)}
    with trio.fail_after(1):
        await bench.take([tick(1)], [tick(6)])
    assert bench.numbers == [1, 3, 6]


async def test_records_that_are_never_stored_are_not_waited_for(bench: Bench) -> None:
    with trio.fail_after(1):
        await bench.take([book(1)], [book(5)])
    assert bench.numbers == [1, 5]
    assert bench.gaps == [(BUS, 3)]


async def test_many_topics_do_not_wait_one_after_the_other(bench: Bench, autojump_clock: object) -> None:
    topics = [Topic("sea", f"S{number}", "tick") for number in range(50)]
    await bench.take([tick(1, topic) for topic in topics], [tick(3, topic) for topic in topics])
    assert trio.current_time() < 2 * FETCH_S
    assert len(bench.gaps) == len(topics)


async def test_a_database_that_is_away_leaves_a_gap(bench: Bench, autojump_clock: object) -> None:
    bench.away = "away"
    await bench.take([tick(1)], [tick(3)])
    assert bench.numbers == [1, 3]
    assert bench.gaps == [(BUS, 1)]


async def test_numbers_left_out_behind_a_failover_are_no_gap_of_the_bus(bench: Bench) -> None:
    begin = 1 + LEFT_OUT
    await bench.take([tick(1)], [gap(begin, FAILOVER)], [gap(begin, FAILOVER), tick(begin + 1)])
    assert bench.numbers == [1, begin + 1]
    assert {cause for cause, _ in bench.gaps} == {FAILOVER}
    assert bench.reads == 0


async def test_what_a_leader_stored_and_did_not_ship_before_another_took_over_is_read(bench: Bench) -> None:
    begin = 4 + LEFT_OUT
    bench.database = {seq: tick(seq) for seq in range(1, 5)}
    hole = Published(TOPIC, begin, Gap(TOPIC, 4, None, FAILOVER))
    await bench.take([tick(1), tick(2)], [hole], [hole, tick(begin + 1)])
    assert [one.seq for one in bench.routed] == [1, 2, 3, 4, begin, begin, begin + 1]
    assert {cause for cause, _ in bench.gaps} == {FAILOVER}
    assert bench.reads == 1


async def test_what_a_leader_neither_shipped_nor_stored_is_a_gap(
    bench: Bench, autojump_clock: object
) -> None:
    bench.database = {3: tick(3)}
    await bench.take([tick(1)], [Published(TOPIC, 5, Gap(TOPIC, 5, None, "restart"))], [tick(6)])
    assert [one.seq for one in bench.routed] == [1, 1, 3, 3, 5, 6]
    assert bench.gaps == [(BUS, 1), (BUS, 2), ("restart", None)]


async def test_the_size_of_a_failover_that_was_missed_is_not_guessed(bench: Bench) -> None:
    begin = 3 + LEFT_OUT
    bench.database = {2: tick(2), begin: tick(begin), begin + 1: tick(begin + 1)}
    await bench.take([tick(1)], [tick(begin + 1)])
    assert bench.numbers == [1, 2, begin, begin + 1]
    assert bench.gaps == [(FAILOVER, None)]


async def test_a_gap_of_the_past_is_not_told_again(bench: Bench) -> None:
    batch = [tick(1)], [gap(1, "silence")], [tick(2)]
    await bench.take(*batch)
    bench.followed.begin_again()
    await bench.take(*batch)
    assert bench.gaps == [("silence", None)]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"nonsense",
        bytes(_encoder.encode([tick(2)]))[:-3],
        bytes(_encoder.encode([tick(2)]))[:-1] + b"\xff",
        b"\x01st1\xff\xff",
        b"\x01st9",
        b"\x01st1"
        + msgspec.msgpack.encode([[["sea", "EURUSD", "tick"], 1]]).replace(b"EURUSD", b"EURUS\xff"),
        b"\x01st1" + msgspec.msgpack.encode([[[["sea", "EURUSD", "tick"], "many"]]]),
    ],
)
async def test_a_damaged_or_foreign_entry_is_counted_and_skipped(bench: Bench, frame: bytes) -> None:
    await bench.take([tick(1)], frame, [tick(2)])
    assert bench.numbers == [1, 2]
    refused = bench.metrics.registry.get_sample_value("mdserver_bus_frames_refused_total", {"broker": "sea"})
    assert refused == 1


async def test_records_of_another_broker_are_refused(bench: Bench) -> None:
    await bench.take([tick(1)], [tick(2, Topic("lake", "EURUSD", "tick"))], encode_marks({TOPIC: 1}))
    assert bench.numbers == [1]
    assert [one.seq for one in bench.stored] == [1]


async def test_candles_hear_of_records_once_they_are_stored(bench: Bench) -> None:
    await bench.take([tick(1), tick(2)], encode_marks({TOPIC: 1}))
    assert [one.seq for one in bench.stored] == [1]
    await bench.take(encode_marks({TOPIC: 2}), encode_marks({TOPIC: 2}))
    assert [one.seq for one in bench.stored] == [1, 2]
    assert bench.followed.caught_up({TOPIC: 2})
    assert not bench.followed.caught_up({TOPIC: 3})


async def test_records_that_are_never_stored_take_no_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed_module, "MOST_UNSTORED", 10)
    await bench.take([book(seq) for seq in range(1, 30)], [tick(1)], encode_marks({TOPIC: 1}))
    assert [one.seq for one in bench.stored] == [1]


async def test_before_it_is_primed_it_notes_and_routes_nothing(bench: Bench) -> None:
    bench.followed.primed = False
    await bench.take([tick(1), gap(1, "silence"), tick(4)], encode_marks({TOPIC: 4}))
    assert bench.routed == bench.stored == []
    bench.followed.primed = True
    await bench.take([tick(5)])
    assert bench.numbers == [5]


async def test_where_a_topic_stands_in_the_database_counts_for_one_that_the_bus_lacks(bench: Bench) -> None:
    bench.database = {seq: tick(seq) for seq in range(1, 5)}
    bench.followed.seed({TOPIC: (2, 2)})
    await bench.take([tick(5)])
    assert bench.numbers == [3, 4, 5]
