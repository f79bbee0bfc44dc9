"""Live candles: the stored candles, read back after each write and sent to their subscribers.

The table of candles is the only source, so a live candle always equals the answer of ``/api/candles``; it is one write
behind the records. For a series without subscribers to its candles nothing is read or kept.

A candle closes by the clock, at its end plus a grace, once all records received until then are stored. It needs no
later record. While nothing can be stored candles wait, and each still closes exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import time
from typing import NamedTuple, TypeAlias

import structlog
import trio

from ..errors import StoreUnavailable
from ..log import RarelyLogged
from ..model import TIMEFRAMES, US_PER_S, Candle, Published, RecordType, Topic

__all__ = ["CandleKey", "LiveCandles", "ReadCandles", "StoredCandle"]

PACE_S = 0.25
"""The least time between two rounds of reading and sending candles."""
BARRIER_S = 0.05
"""The time between two checks whether the last records of a closing candle are stored."""
LOOK_S = 1.0
AWAY_PAUSE_S = 1.0
KEPT_CLOSED = 4
"""The closed candles kept for each topic, so that a closed candle is sent again only if it has changed."""


class CandleKey(NamedTuple):
    """The key of a candle of one type of records; ``open_s`` is in Unix seconds."""

    broker: str
    symbol: str
    type: RecordType
    timeframe_s: int
    open_s: int


class StoredCandle(NamedTuple):
    """The values of a candle as they are stored."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    row_count: int


ReadCandles: TypeAlias = Callable[[Sequence[CandleKey]], Awaitable[dict[CandleKey, StoredCandle]]]
"""Reads candles; those that do not exist are left out. Raises StoreUnavailable."""

Barrier: TypeAlias = Callable[[], Callable[[], bool]]
"""Marks the records received so far; it returns a function that returns whether they are all stored."""

_Series: TypeAlias = tuple[str, str, RecordType]


class _Line:
    """The candles of one topic, by open time: the forming ones and the last closed ones."""

    __slots__ = ("closed", "dirty", "forming", "holders", "read", "series", "timeframe_s", "topic")

    def __init__(self, topic: Topic, series: _Series, timeframe_s: int) -> None:
        self.topic = topic
        self.series = series
        self.timeframe_s = timeframe_s
        self.holders = 0
        self.read = False
        """Whether its candles were read once, so that the forming one is known if there is one."""
        self.dirty: set[int] = set()
        self.forming: dict[int, StoredCandle] = {}
        self.closed: dict[int, StoredCandle] = {}

    def candle(self, open_s: int, values: StoredCandle, *, closed: bool, revised: bool = False) -> Published:
        topic = self.topic
        record = Candle(topic.symbol, open_s * US_PER_S, topic.variant, *values, closed, revised)
        return Published(topic, 0, record)

    def keep_closed(self, open_s: int, values: StoredCandle) -> None:
        self.closed[open_s] = values
        while len(self.closed) > KEPT_CLOSED:
            del self.closed[min(self.closed)]


class _Clock:
    """The closing times of one timeframe: candles that open before ``closed_before`` are closed."""

    __slots__ = ("closed_before", "due", "noted", "users")

    def __init__(self, closed_before: int) -> None:
        self.users = 0
        self.closed_before = self.noted = closed_before
        self.due: deque[tuple[int, Callable[[], bool]]] = deque()


class LiveCandles:
    """The candles that clients have subscribed to.

    Args:
        route: Sends candles to their subscribers.
        read: Reads stored candles.
        barrier: Marks the records received so far.
        away: Returns why nothing can be stored at present, or None.
        grace_s: How long after its end a candle closes.
        now: The clock, in Unix seconds.
    """

    def __init__(
        self,
        *,
        route: Callable[[list[Published]], None],
        read: ReadCandles,
        barrier: Barrier,
        away: Callable[[], str | None] = lambda: None,
        grace_s: float = 1.0,
        now: Callable[[], float] = time,
    ) -> None:
        self.listeners: list[Callable[[str, str], None]] = []
        """Called with a state and a text for clients when candles stop because nothing can be stored, and go on."""
        self._route = route
        self._read = read
        self._barrier = barrier
        self._is_away = away
        self._grace_s = grace_s
        self._now = now
        self._lines: dict[_Series, dict[int, _Line]] = {}
        self._every: dict[tuple[str, RecordType], dict[int, int]] = {}
        """Brokers and types of records whose candles are wanted for all symbols: timeframe -> number of holders."""
        self._clocks: dict[int, _Clock] = {}
        self._dirty: set[_Line] = set()
        self._woken = trio.Event()
        self._after_round = trio.Event()
        self._away = False
        self._rarely = RarelyLogged(structlog.get_logger("mdserver"))

    # -- subscriptions -------------------------------------------------------------------------------

    def hold(self, topic: Topic, source: RecordType) -> None:
        """Add a holder of a topic's candles, made from records of type ``source``; symbol ``*`` means all symbols."""
        timeframe_s = TIMEFRAMES[topic.variant]
        self._start_clock(timeframe_s)
        if topic.symbol == "*":
            every = self._every.setdefault((topic.broker, source), {})
            every[timeframe_s] = every.get(timeframe_s, 0) + 1
            return
        line = self._line((topic.broker, topic.symbol, source), timeframe_s)
        line.holders += 1

    def release(self, topic: Topic, source: RecordType) -> None:
        """Remove a holder of a topic."""
        timeframe_s = TIMEFRAMES[topic.variant]
        if topic.symbol == "*":
            every = self._every[topic.broker, source]
            every[timeframe_s] -= 1
            if not every[timeframe_s]:
                del every[timeframe_s]
            for series in [s for s in self._lines if (s[0], s[2]) == (topic.broker, source)]:
                self._drop_unheld(series, timeframe_s)
            if not every:
                del self._every[topic.broker, source]
        else:
            series = (topic.broker, topic.symbol, source)
            self._lines[series][timeframe_s].holders -= 1
            self._drop_unheld(series, timeframe_s)
        clock = self._clocks[timeframe_s]
        clock.users -= 1
        if not clock.users:
            del self._clocks[timeframe_s]

    def forming(self, topic: Topic, source: RecordType) -> list[Published]:
        """Return the forming candles of a topic, as last sent."""
        found = []
        for series, lines in self._lines.items() if topic.symbol == "*" else self._lines_of(topic, source):
            line = lines.get(TIMEFRAMES[topic.variant])
            if line is not None and (series[0], series[2]) == (topic.broker, source):
                forming = sorted(line.forming.items())
                found += [line.candle(open_s, values, closed=False) for open_s, values in forming]
        return found

    async def wait_read(self, topic: Topic, source: RecordType) -> None:
        """Wait until the forming candle of a topic that is held was read once; not for symbol ``*``."""
        series, timeframe_s = (topic.broker, topic.symbol, source), TIMEFRAMES[topic.variant]
        while (line := self._lines.get(series, {}).get(timeframe_s)) is not None and not line.read:
            await self._after_round.wait()

    def _lines_of(self, topic: Topic, source: RecordType) -> list[tuple[_Series, dict[int, _Line]]]:
        series = (topic.broker, topic.symbol, source)
        return [(series, self._lines[series])] if series in self._lines else []

    def _start_clock(self, timeframe_s: int) -> None:
        clock = self._clocks.get(timeframe_s)
        if clock is None:
            clock = self._clocks[timeframe_s] = _Clock(self._ended_before(timeframe_s))
        clock.users += 1

    def _ended_before(self, timeframe_s: int) -> int:
        return int((self._now() - self._grace_s) // timeframe_s) * timeframe_s

    def _line(self, series: _Series, timeframe_s: int) -> _Line:
        lines = self._lines.setdefault(series, {})
        line = lines.get(timeframe_s)
        if line is None:
            interval = next(name for name, length in TIMEFRAMES.items() if length == timeframe_s)
            topic = Topic(series[0], series[1], "candle", interval)
            line = lines[timeframe_s] = _Line(topic, series, timeframe_s)
            last = int(self._now() // timeframe_s) * timeframe_s
            line.dirty.update(range(self._clocks[timeframe_s].closed_before, last + 1, timeframe_s))
            self._dirty.add(line)
            self._woken.set()
        return line

    def _drop_unheld(self, series: _Series, timeframe_s: int) -> None:
        lines = self._lines[series]
        line = lines.get(timeframe_s)
        every = self._every.get((series[0], series[2]), {})
        if line is not None and not line.holders and timeframe_s not in every:
            del lines[timeframe_s]
            self._dirty.discard(line)
            if not lines:
                del self._lines[series]

    # -- stored records --------------------------------------------------------------------------------

    def stored(self, records: Iterable[Published]) -> None:
        """Take note of committed records; called before the journal may delete them."""
        if not self._lines and not self._every:
            return
        touched: dict[_Series, set[int]] = {}
        for published in records:
            broker, symbol, kind, _ = published.topic
            series = (broker, symbol, kind)
            if series not in touched and series not in self._lines:
                every = self._every.get((broker, kind))
                if not every:
                    continue
                for timeframe_s in every:
                    self._line(series, timeframe_s)
            touched.setdefault(series, set()).add(published.record.time_us // (60 * US_PER_S) * 60)
        for series, minutes in touched.items():
            for timeframe_s in self._every.get((series[0], series[2]), ()):
                self._line(series, timeframe_s)
            for timeframe_s, line in self._lines[series].items():
                line.dirty.update(minute // timeframe_s * timeframe_s for minute in minutes)
                self._dirty.add(line)
        if touched:
            self._woken.set()

    # -- sending ---------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send candles until cancelled."""
        task_status.started()
        while True:
            with trio.move_on_after(self._patience_s()):
                await self._woken.wait()
            self._woken = trio.Event()
            self._tell_if_away()
            try:
                sent = await self._round()
            except StoreUnavailable as error:
                self._rarely.warning("live candles wait: the database is unavailable", error=str(error))
                await trio.sleep(AWAY_PAUSE_S)
                self._woken.set()
            else:
                if sent:
                    await trio.sleep(PACE_S)

    def _patience_s(self) -> float:
        if not self._clocks:
            return float("inf")
        if any(clock.due for clock in self._clocks.values()):
            return LOOK_S if self._away else BARRIER_S
        ends = min(clock.noted + length_s for length_s, clock in self._clocks.items())
        return min(LOOK_S, max(0.0, ends + self._grace_s - self._now()))

    def _tell_if_away(self) -> None:
        why = self._is_away() if self._clocks else None
        if (why is not None) == self._away:
            return
        self._away = why is not None
        state, text = (
            ("live", "candles go on") if why is None else ("waiting", f"candles wait to be stored: {why}")
        )
        for listener in self.listeners:
            listener(state, text)

    async def _round(self) -> bool:
        """Read and send the candles that have changed or must close; return whether any were read."""
        ended = self._advance_clocks()
        wanted: dict[CandleKey, _Line] = {}
        dirty = {line: frozenset(line.dirty) for line in self._dirty}
        for line, opens in dirty.items():
            wanted.update((CandleKey(*line.series, line.timeframe_s, open_s), line) for open_s in opens)
        if ended:
            for lines in self._lines.values():
                for timeframe_s, line in lines.items():
                    before = ended.get(timeframe_s, 0)
                    due = [open_s for open_s in line.forming if open_s < before]
                    wanted.update((CandleKey(*line.series, timeframe_s, open_s), line) for open_s in due)
        if wanted:
            self._dirty.clear()
            for line in dirty:
                line.dirty.clear()
            try:
                found = await self._read(sorted(wanted))
            except BaseException:
                for line, opens in dirty.items():
                    line.dirty.update(opens)
                    self._dirty.add(line)
                raise
            self._send(wanted, found, ended)
            self._note_read(dirty)
        for timeframe_s, before in ended.items():
            clock = self._clocks.get(timeframe_s)
            if clock is not None:
                clock.closed_before = max(clock.closed_before, before)
                while clock.due and clock.due[0][0] <= clock.closed_before:
                    clock.due.popleft()
        return bool(wanted)

    def _note_read(self, lines: Iterable[_Line]) -> None:
        for line in lines:
            line.read = True
        self._after_round.set()
        self._after_round = trio.Event()

    def _advance_clocks(self) -> dict[int, int]:
        """Return the timeframes whose candles close now; candles that open before the given time close."""
        ended: dict[int, int] = {}
        for timeframe_s, clock in self._clocks.items():
            before = self._ended_before(timeframe_s)
            if before > clock.noted:
                clock.noted = before
                clock.due.append((before, self._barrier()))
            for until, is_stored in clock.due:
                if not is_stored():
                    break
                ended[timeframe_s] = until
        return ended

    def _send(
        self, wanted: dict[CandleKey, _Line], found: dict[CandleKey, StoredCandle], ended: dict[int, int]
    ) -> None:
        batch: list[Published] = []
        for key in sorted(wanted):  # oldest first within a topic
            line, values, open_s = wanted[key], found.get(key), key.open_s
            clock = self._clocks.get(key.timeframe_s)
            if values is None or clock is None or key.timeframe_s not in self._lines.get(line.series, {}):
                continue
            if open_s < clock.closed_before:
                if line.closed.get(open_s) != values:
                    batch.append(line.candle(open_s, values, closed=True, revised=True))
                    line.keep_closed(open_s, values)
            elif open_s < ended.get(key.timeframe_s, 0):
                line.forming.pop(open_s, None)
                batch.append(line.candle(open_s, values, closed=True))
                line.keep_closed(open_s, values)
            elif line.forming.get(open_s) != values:
                line.forming[open_s] = values
                batch.append(line.candle(open_s, values, closed=False))
        if batch:
            self._route(batch)
