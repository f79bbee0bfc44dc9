"""The way of a leader's batches onto the bus: taken at once, appended by one task, bounded in bytes.

The bus is transport, never the truth: what waits too long is dropped here and read from the database by whoever misses
it, by its numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import attrs
import structlog
import trio

from ..backoff import Backoff
from ..journal.format import FrameEncoder
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import Published
from .engine import START, BusEngine, BusMisused, BusUnavailable, Deposed, Position
from .kept import ENTRY_BYTES, Kept
from .names import stream_key

__all__ = ["Shipper"]

PIPELINED = 50
"""Frames that are appended at once."""

_log = structlog.get_logger("mdserver")


class _Frame(NamedTuple):
    data: bytes
    records: int


@attrs.define(eq=False)
class _Line:
    """What waits for one broker's stream. ``sent``: appended, perhaps; ``next`` is the id of its first frame."""

    broker: str
    next: Position
    on_deposed: Callable[[], None]
    kept: Kept
    is_measured: bool = False
    """Whether what the leaders before have left on the stream is known."""
    waiting: deque[_Frame] = attrs.field(factory=deque)
    sent: list[_Frame] = attrs.field(factory=list)
    emptied: trio.Event = attrs.field(factory=trio.Event)

    @property
    def size(self) -> int:
        """The bytes that wait."""
        return sum(len(frame.data) for frame in (*self.sent, *self.waiting))


class Shipper:
    """Appends batches to the streams of the brokers that this process leads, and cuts these streams.

    ``max_bytes`` may wait here for all of them; on each stream at most ``keep_bytes`` stay, ``keep_s`` seconds long.
    """

    def __init__(
        self, engine: BusEngine, metrics: Metrics, *, max_bytes: int, keep_s: float, keep_bytes: int
    ) -> None:
        self.bytes = 0
        """Bytes of frames that wait."""
        self.away: str | None = None
        """Why nothing can be appended at present, or None."""
        self._engine = engine
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._encoder = FrameEncoder()
        self._lines: dict[str, _Line] = {}
        self._offered = trio.Event()
        self._rarely = RarelyLogged(_log)

    def lead(self, broker: str, fence: int, on_deposed: Callable[[], None]) -> None:
        """Ship a broker's batches under ``fence`` from now on; ``on_deposed`` is called where another leads.

        The entry with the number 0 was the take-over.
        """
        kept = Kept(keep_s=self._keep_s, keep_bytes=self._keep_bytes)
        self._lines[broker] = _Line(broker, Position(fence, 1), on_deposed, kept)

    def resign(self, broker: str) -> None:
        """Ship no more of a broker; what waits is dropped: who leads now begins behind what arrived."""
        line = self._lines.pop(broker, None)
        if line is not None:
            self.bytes -= line.size

    async def shipped(self, broker: str) -> None:
        """Return once nothing of a broker waits."""
        line = self._lines.get(broker)
        while line is not None and (line.waiting or line.sent):
            line.emptied = trio.Event()
            await line.emptied.wait()

    def mark(self, broker: str, frame: bytes) -> None:
        """Take an entry that holds no records. Never waits."""
        line = self._lines.get(broker)
        if line is not None:
            line.waiting.append(_Frame(frame, 0))
            self.bytes += len(frame)
            self._offered.set()

    def offer(self, batch: Sequence[Published]) -> None:
        """Take a batch of one broker; nothing where this process does not lead it. Never waits."""
        line = self._lines.get(batch[0].topic.broker)
        if line is None:
            return
        frame = bytes(self._encoder.encode(batch))
        line.waiting.append(_Frame(frame, len(batch)))
        self.bytes += len(frame)
        while self.bytes > self._max_bytes and len(line.waiting) > 1:
            self._drop_oldest(line)
        self._offered.set()

    async def trim(self, broker: str) -> None:
        """Have the bus forget what is too old or too much of a broker. Raises the engine's errors."""
        line = self._lines.get(broker)
        if line is not None:
            await self._trim(line)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Append what is offered until cancelled. While the bus is away it waits, bounded."""
        task_status.started()
        backoff = Backoff(0.05, 2.0)
        while True:
            await self._offered.wait()
            self._offered = trio.Event()
            trouble: str | None = None
            for line in list(self._lines.values()):
                try:
                    await self._ship(line)
                except (BusUnavailable, BusMisused) as error:
                    trouble = str(error)
                    self._rarely.error(
                        "the bus takes no records: they are stored all the same, and wait for it",
                        error=trouble,
                    )
                    if isinstance(error, BusUnavailable):
                        break  # the other streams are on the same engine
                if line.waiting or line.sent:
                    self._offered.set()
            self.away = trouble
            if trouble is None:
                backoff.reset()
            else:
                self._offered.set()
                await trio.sleep(backoff.next_s())

    async def _ship(self, line: _Line) -> None:
        """Append the next frames of a broker; the others have their turn before more of it."""
        if not line.is_measured:
            left = await self._engine.size(stream_key(line.broker))
            line.kept.add(START, left.bytes, trio.current_time())
            line.is_measured = True
        if line.sent:  # the engine has not answered the last time
            await self._find_out(line, refused=False)
        if line.waiting and self._lines.get(line.broker) is line:
            line.sent = [line.waiting.popleft() for _ in range(min(PIPELINED, len(line.waiting)))]
            try:
                await self._engine.append(
                    stream_key(line.broker), line.next, [frame.data for frame in line.sent]
                )
            except Deposed:
                await self._find_out(line, refused=True)
            else:
                self._arrived(line, len(line.sent))
            await self._trim(line)

    async def _trim(self, line: _Line) -> None:
        before = line.kept.cut(trio.current_time())
        if self._lines.get(line.broker) is line:
            self._metrics.bus_stream_bytes.labels(line.broker).set(line.kept.bytes)
        if before is None:
            return
        if line.kept.is_short:
            self._rarely.warning(
                "the bus keeps records for less than bus.keep_s, because their stream has reached bus.keep_bytes",
                broker=line.broker,
                keep_bytes=self._keep_bytes,
            )
        await self._engine.trim(stream_key(line.broker), before)

    async def _find_out(self, line: _Line, *, refused: bool) -> None:
        """Ask what arrived of an append that broke off or was refused; step down where another has written."""
        edges = await self._engine.edges(stream_key(line.broker))
        arrived = 0
        if edges is not None and edges[1].fence == line.next.fence:
            arrived = max(0, edges[1].number - line.next.number + 1)
            self._arrived(line, arrived)
        if (edges is not None and edges[1].fence > line.next.fence) or (refused and not arrived):
            # also where nothing is left of what was written: the engine takes no id of ours any more
            if self._lines.get(line.broker) is line:
                self.resign(line.broker)
                line.on_deposed()
            return
        line.waiting.extendleft(reversed(line.sent))
        line.sent = []

    def _arrived(self, line: _Line, count: int) -> None:
        arrived, line.sent = line.sent[:count], line.sent[count:]
        if arrived:
            needed = sum(len(frame.data) + ENTRY_BYTES for frame in arrived)
            line.kept.add(line.next, needed, trio.current_time())
        line.next = Position(line.next.fence, line.next.number + len(arrived))
        if (
            self._lines.get(line.broker) is line
        ):  # what waited for a broker that was resigned is not counted any more
            self.bytes -= sum(len(frame.data) for frame in arrived)
        if not line.waiting and not line.sent:
            line.emptied.set()
        self._metrics.shipped.labels(line.broker).value += sum(frame.records for frame in arrived)

    def _drop_oldest(self, line: _Line) -> None:
        frame = line.waiting.popleft()
        self.bytes -= len(frame.data)
        self._metrics.unshipped.labels(line.broker).inc(frame.records)
        self._rarely.error(
            "records for the bus were dropped because too many wait: other processes read them from the database",
            broker=line.broker,
            records=frame.records,
        )
