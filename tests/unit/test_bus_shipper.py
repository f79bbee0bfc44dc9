"""What a leader puts on the bus, over an engine that goes away, answers late, or has another leader."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from mdserver.bus.engine import START, BusMisused, BusUnavailable, Deposed, Position
from mdserver.bus.kept import ENTRY_BYTES
from mdserver.bus.memory_engine import MemoryEngine
from mdserver.bus.names import stream_key
from mdserver.bus.shipper import PIPELINED, Shipper
from mdserver.journal.format import HEADER_BYTES, FrameDecoder, FrameEncoder
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic

TOPIC = Topic("sea", "EURUSD", "tick")


def record(number: int) -> Published:
    return Published(TOPIC, number, Tick("EURUSD", number, 1.0, 1.1))


class Lossy(MemoryEngine):
    """Appends some frames and then does not answer."""

    answers_lost = 0
    arrive = 0

    async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
        if self.answers_lost:
            self.answers_lost -= 1
            await super().append(stream, first, frames[: self.arrive])
            raise BusUnavailable("no answer")
        await super().append(stream, first, frames)


class Bench:
    def __init__(self, engine: MemoryEngine, max_bytes: int = 1 << 20, keep_bytes: int = 1 << 20) -> None:
        self.engine = engine
        self.metrics = Metrics()
        self.shipper = Shipper(engine, self.metrics, max_bytes=max_bytes, keep_s=60, keep_bytes=keep_bytes)
        self.deposed = trio.Event()
        self.shipper.lead("sea", 3, self.deposed.set)

    async def arrived(self, count: int) -> list[int]:
        """Wait for so many records, and return their numbers."""
        with trio.fail_after(30):
            while len(numbers := await self.numbers()) < count:
                await trio.sleep(0.01)
        return numbers

    async def numbers(self) -> list[int]:
        entries = (await self.engine.read({stream_key("sea"): START}, most=10_000, wait_s=0)).get(
            stream_key("sea"), []
        )
        decode = FrameDecoder().decode
        return [one.seq for entry in entries for one in decode(entry.frame[HEADER_BYTES:])]


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    bench = Bench(Lossy())
    await nursery.start(bench.shipper.run)
    return bench


async def test_batches_arrive_in_order(bench: Bench) -> None:
    for number in range(1, 400, 2):
        bench.shipper.offer([record(number), record(number + 1)])
    assert await bench.arrived(400) == list(range(1, 401))
    assert bench.shipper.bytes == 0


async def test_a_stream_is_bounded_in_bytes_whoever_wrote_to_it(nursery: trio.Nursery) -> None:
    engine = MemoryEngine()
    await engine.append(stream_key("sea"), Position(2, 1), [bytes(8_000)])
    bench = Bench(engine, keep_bytes=10_000)
    await nursery.start(bench.shipper.run)
    size = len(FrameEncoder().encode([record(1)]))
    count = 20_000 // size
    for number in range(1, count + 1):
        bench.shipper.offer([record(number)])
        await bench.shipper.shipped("sea")
        assert (await engine.size(stream_key("sea"))).bytes <= 10_000 + PIPELINED * size
    numbers = await bench.numbers()
    assert numbers == list(range(numbers[0], count + 1))
    assert 0.9 < len(numbers) * (size + ENTRY_BYTES) / 10_000 <= 1


async def test_a_broker_that_is_not_led_is_not_shipped(bench: Bench) -> None:
    bench.shipper.offer([Published(Topic("lake", "EURUSD", "tick"), 1, record(1).record)])
    bench.shipper.offer([record(1)])
    await bench.arrived(1)
    assert list(bench.engine.streams) == [stream_key("sea")]


@pytest.mark.parametrize("arrive", [0, 1, 5])
async def test_an_append_without_an_answer_is_not_repeated_where_it_arrived(
    bench: Bench, arrive: int
) -> None:
    engine = bench.engine
    assert isinstance(engine, Lossy)
    engine.answers_lost, engine.arrive = 2, arrive
    for number in range(1, 6):
        bench.shipper.offer([record(number)])
    assert await bench.arrived(5) == [1, 2, 3, 4, 5]
    bench.shipper.offer([record(6)])
    assert await bench.arrived(6) == [1, 2, 3, 4, 5, 6]
    assert not bench.deposed.is_set()


async def test_an_engine_that_is_away_gets_what_waited(bench: Bench) -> None:
    bench.engine.away = True
    for number in range(1, 101):
        bench.shipper.offer([record(number)])
    with trio.fail_after(30):
        while bench.shipper.away is None:
            await trio.sleep(0.01)
    bench.engine.away = False
    assert await bench.arrived(100) == list(range(1, 101))
    with trio.fail_after(30):
        while bench.shipper.away is not None:
            await trio.sleep(0.01)


async def test_what_waits_is_bounded_and_the_oldest_goes(nursery: trio.Nursery) -> None:
    bench = Bench(MemoryEngine(), max_bytes=2_000)
    bench.engine.away = True
    await nursery.start(bench.shipper.run)
    for number in range(1, 101):
        bench.shipper.offer([record(number)])
        assert bench.shipper.bytes <= 2_000
    bench.engine.away = False
    numbers = await bench.arrived(1)
    with trio.fail_after(30):
        while bench.shipper.bytes:
            await trio.sleep(0.01)
    numbers = await bench.numbers()
    assert numbers[-1] == 100
    assert numbers == list(range(numbers[0], 101))
    dropped = bench.metrics.registry.get_sample_value("mdserver_bus_records_dropped_total", {"broker": "sea"})
    assert dropped == numbers[0] - 1 > 0


async def test_who_was_replaced_is_told_and_ships_nothing_more(bench: Bench) -> None:
    bench.shipper.offer([record(1)])
    await bench.arrived(1)
    await bench.engine.append(stream_key("sea"), Position(4, 0), [])
    bench.engine.streams[stream_key("sea")].append(
        bench.engine.streams[stream_key("sea")][0]._replace(position=Position(4, 0))
    )
    bench.shipper.offer([record(2)])
    with trio.fail_after(30):
        await bench.deposed.wait()
    bench.shipper.offer([record(3)])
    assert bench.shipper.bytes == 0
    assert len(bench.engine.streams[stream_key("sea")]) == 2


async def test_a_stream_that_takes_no_id_of_ours_ends_the_lead(bench: Bench) -> None:
    bench.shipper.offer([record(1)])
    await bench.arrived(1)

    async def refuse(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise Deposed("the last id was above")

    bench.engine.append = refuse  # type: ignore[method-assign]
    bench.engine.streams[stream_key("sea")].clear()  # trimmed by somebody else
    bench.shipper.offer([record(2)])
    with trio.fail_after(30):
        await bench.deposed.wait()


async def test_bytes_of_a_broker_that_was_resigned_meanwhile_count_once(nursery: trio.Nursery) -> None:
    begun, go_on = trio.Event(), trio.Event()

    class Slow(MemoryEngine):
        async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
            begun.set()
            await go_on.wait()
            await super().append(stream, first, frames)

    bench = Bench(Slow())
    await nursery.start(bench.shipper.run)
    bench.shipper.offer([record(1)])
    await begun.wait()
    bench.shipper.resign("sea")
    go_on.set()
    await bench.arrived(1)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.shipper.bytes == 0


async def test_a_stream_that_is_refused_does_not_stop_the_others(nursery: trio.Nursery) -> None:
    class Picky(MemoryEngine):
        async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
            if stream == stream_key("air"):
                raise BusMisused("a key of another type")
            await super().append(stream, first, frames)

    bench = Bench(Picky())
    bench.shipper.resign("sea")
    bench.shipper.lead("air", 3, bench.deposed.set)
    bench.shipper.lead("sea", 3, bench.deposed.set)
    await nursery.start(bench.shipper.run)
    bench.shipper.offer([Published(Topic("air", "EURUSD", "tick"), 1, record(1).record)])
    bench.shipper.offer([record(1)])
    assert await bench.arrived(1) == [1]
    assert bench.shipper.away == "a key of another type"
