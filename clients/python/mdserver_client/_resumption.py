"""What a stream has had, and what it asks for on each connection so that nothing is missing or twice. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from .messages import Ack, Result, ServerError, Status
from .records import Candle, Gap, Position, Record, Time, seconds

__all__ = ["Request", "Resumption"]

Request: TypeAlias = dict[str, Any]

STORED = frozenset(("tick", "trade"))
"""What the server stores as records, and so can replay."""
ALL = "*"
"""In place of symbols: all that a broker streams."""
ROWS = 500
"""Topics in one request, which may have 64 KiB."""
REMEMBERED_GAPS = 32
"""Gaps of a topic that are known when a replay announces them again."""
_UNIT_S = {"m": 60, "h": 3_600, "d": 86_400}


class _Topic:
    """One symbol and type of one broker.

    ``expected``: the number that follows without a question; -1 where there is one. ``broken``: why the next record
    does not follow on the last. ``waiting``: the server has yet to say that it goes on behind ``seq``; what it sends of
    newer ones until then will come again. ``explained``: a gap of the server's came behind the last record.
    """

    __slots__ = (
        "broken",
        "broker",
        "closed",
        "expected",
        "explained",
        "gaps",
        "seq",
        "symbol",
        "time",
        "type",
        "waiting",
    )

    def __init__(self, broker: str, symbol: str, type_: str) -> None:
        self.broker, self.symbol, self.type = broker, symbol, type_
        self.expected = -1
        self.seq: int | None = None
        self.time: float | None = None
        self.broken: str | None = None
        self.waiting = False
        self.explained = False
        self.closed = False
        self.gaps: deque[tuple[object, ...]] = deque(maxlen=REMEMBERED_GAPS)

    def break_off(self, cause: str) -> None:
        self.broken = self.broken or cause
        self.expected = -1

    def gap(self, to_s: float, cause: str, size: int | None = None) -> Gap:
        from_s = to_s if self.time is None else self.time
        return Gap(self.broker, self.symbol, self.type, from_s, cause, "open", to_s, size)


class Resumption:
    """Decides what the loop gets and what is asked for. ``options`` are further fields of the first request."""

    def __init__(
        self,
        symbols: Sequence[str],
        types: Sequence[str],
        broker: str | None,
        since: Time | Position | Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.epoch: str | None = None
        self.retry = False
        """History was not there: ask :meth:`again` a little later."""
        self._topics: dict[tuple[str, str, str], _Topic] = {}
        self._since: Any = since if isinstance(since, Mapping) or since is None else seconds(since)
        self._symbols: list[str] | None = list(symbols)
        self._types = list(types)
        if isinstance(since, Mapping) and "epoch" in since and not symbols:
            self._symbols = None
            self._types = sorted({row[2] for row in since["seqs"]})
        self._broker = broker
        self._options = dict(options)
        self._snapshot = self._options.pop("snapshot", None)
        self._asked: dict[object, list[_Topic] | None] = {}
        self._ids = 0
        self._hello_time = 0.0
        self._began: float | None = None
        self._live_only = False
        self._never: set[object] = set()
        """Requests of this connection whose past this server can never send, because it stores nothing."""

    @property
    def position(self) -> Position:
        """The numbers that the loop has had."""
        topics = self._topics.values()
        rows = [
            (one.broker, one.symbol, one.type, one.seq)
            for one in topics
            if one.seq is not None and one.type in STORED
        ]
        return Position(epoch=self.epoch, seqs=rows)

    # -- requests --------------------------------------------------------------------------------

    def connected(self, hello: Status) -> list[Request]:
        """Return the requests with which a connection begins."""
        same = self.epoch in (None, hello.epoch)
        self.epoch = hello.epoch
        self._asked.clear()
        self._never.clear()
        self.retry = False
        now_s = hello.time or 0.0
        if self._began is None:
            self._hello_time = now_s
            fields = {"symbols": self._symbols, "broker": self._broker, "since": self._since}
            return [self._request(None, {**fields, "snapshot": self._snapshot})]
        for topic in self._topics.values():
            topic.waiting = self._is_replayed(topic)
            if not topic.waiting:
                if topic.time is not None:
                    topic.break_off("disconnected")
            elif not same and topic.seq is not None:
                topic.break_off("epoch")
                topic.seq = None
        # All symbols of a broker: those that the stream has had are resumed by name besides.
        everything = {"symbols": self._symbols, "broker": self._broker}
        first = [self._request(None, everything)] if self._symbols == [ALL] else []
        return first + self._resuming(list(self._topics.values()), now_s)

    def again(self) -> list[Request]:
        """Return the requests that ask once more for what was not there."""
        self.retry = False
        waiting = [topic for topic in self._topics.values() if topic.waiting]
        return self._resuming(waiting, self._began or 0.0)

    def give_up(self, cause: str = "history_unavailable") -> None:
        """Wait for history no longer: what is live comes, behind a gap."""
        self.retry = False
        for topic in self._topics.values():
            if topic.waiting:
                topic.waiting = False
                topic.break_off(cause)

    def _resuming(self, topics: list[_Topic], server_time_s: float) -> list[Request]:
        numbered = [topic for topic in topics if topic.seq is not None and self._is_replayed(topic)]
        requests = []
        for some in _pieces(numbered):
            rows = [[one.broker, one.symbol, one.type, one.seq] for one in some]
            requests.append(self._request(some, {"since": {"epoch": self.epoch, "seqs": rows}}))
        groups: dict[tuple[str, str], list[_Topic]] = {}
        for topic in topics:
            if topic.seq is None or not self._is_replayed(topic):
                groups.setdefault((topic.broker, topic.type), []).append(topic)
        for (broker, _), group in groups.items():
            for some in _pieces(group):
                fields: Request = {"broker": broker, "symbols": [one.symbol for one in some]}
                if self._is_replayed(some[0]):
                    known = (self._origin() if one.time is None else one.time for one in some)
                    fields["since"] = min(server_time_s, *known)
                requests.append(self._request(some, fields))
        return requests

    def _is_replayed(self, topic: _Topic) -> bool:
        return topic.type in STORED and not self._live_only

    def _origin(self) -> float:
        """From when on records of a topic that has had none are wanted."""
        return self._since if isinstance(self._since, float | int) else self._began or 0.0

    def _request(self, topics: list[_Topic] | None, fields: Request) -> Request:
        self._ids += 1
        self._asked[self._ids] = topics
        types = self._types if topics is None else sorted({topic.type for topic in topics})
        request = {"action": "subscribe", "id": self._ids, "types": types, **self._options, **fields}
        if "candle" not in types:
            request.pop("interval", None)
        if "orderbook" not in types:
            request.pop("depth", None)
        return {name: value for name, value in request.items() if value is not None}

    # -- answers ---------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> list[Result]:
        """Take an acknowledgement; return what was refused."""
        first = ack.id in self._asked and self._asked[ack.id] is None
        if first and self._began is None:
            self._began = self._hello_time
        refused = []
        for result in ack.results:
            if result.status == "error":
                refused.append(result)
                self._topics.pop((result.broker or "", result.symbol, result.type), None)
            elif result.status != "removed" and result.type != "heartbeat" and result.symbol != ALL:
                self._begins(result, first=first)
                if result.code == 410:
                    self._never.add(ack.id)
        return refused

    def _begins(self, result: Result, *, first: bool) -> None:
        name = (result.broker or "", result.symbol, result.type)
        is_new = name not in self._topics
        topic = self._topic(*name)
        if topic.type not in STORED:
            return
        if first and is_new and self._since is not None:
            self._starts(topic)
        if result.recovered is not None:
            topic.waiting = False
        if result.recovered is False:
            topic.break_off("not_stored")

    def _starts(self, topic: _Topic) -> None:
        """Say of a topic where ``since`` lets it begin."""
        topic.waiting = True
        if not isinstance(self._since, Mapping):
            topic.time = self._since
        elif "seq" in self._since:
            topic.seq = self._since["seq"]
        else:
            mine = (topic.broker, topic.symbol, topic.type)
            seq = next((row[3] for row in self._since["seqs"] if tuple(row[:3]) == mine), None)
            topic.waiting = seq is not None
            if self._since["epoch"] == self.epoch:
                topic.seq = seq

    def must_do_without(self, error: ServerError) -> bool:
        """Tell whether the past was refused, for want of a right or of room; from then on it is not asked for."""
        resuming = self._asked.get(error.id) is not None
        if error.code in (405, 409) and resuming and not self._live_only:
            self._live_only = True
            return True
        return False

    def failed(self, error: ServerError) -> bool:
        """Take an error; True where the stream goes on, and with :attr:`retry` asks again."""
        if error.id not in self._asked or error.code != 410:
            return False
        if error.id in self._never:
            return True
        topics = self._asked[error.id]
        concerned = list(self._topics.values()) if topics is None else topics
        for topic in concerned:
            topic.waiting = topic.type in STORED
        self.retry = bool(concerned)
        return self.retry

    # -- records ---------------------------------------------------------------------------------

    def received(self, records: Iterable[Record]) -> list[Record]:
        """Return what the loop gets of records and gaps, in their order."""
        out: list[Record] = []
        append, topics = out.append, self._topics
        for record in records:
            if record.__class__ is Gap:
                self._take_gap(record, out)
                continue
            topic = topics.get((record.broker, record.symbol, record.type))
            if topic is not None and record.seq == topic.expected:
                topic.seq = topic.expected
                topic.expected += 1
                topic.time = record.time
                append(record)
            elif isinstance(record, Candle) and record.seq is None:
                self._take_unnumbered(record, out)
            elif not isinstance(record, Gap):
                self._take(record, out)
        return out

    def _topic(self, broker: str, symbol: str, type_: str) -> _Topic:
        return self._topics.setdefault((broker, symbol, type_), _Topic(broker, symbol, type_))

    def _take(self, record: Any, out: list[Record]) -> None:
        topic = self._topic(record.broker, record.symbol, record.type)
        cause = topic.broken
        missing = None if topic.seq is None else record.seq - topic.seq - 1 - record.conflated
        if cause is None and missing is not None:
            if record.seq <= (topic.seq or 0):
                return
            if missing > 0 and not topic.explained:
                if topic.waiting:
                    return
                cause = "missed"
        elif topic.waiting and cause != "epoch":
            return
        if cause == "epoch" and topic.time is not None and record.time <= topic.time:
            return
        if cause is not None:
            out.append(topic.gap(record.time, cause, missing if cause == "missed" else None))
        out.append(record)
        topic.seq, topic.time, topic.expected = record.seq, record.time, record.seq + 1
        topic.broken, topic.explained = None, False

    def _take_unnumbered(self, record: Candle, out: list[Record]) -> None:
        topic = self._topic(record.broker, record.symbol, "candle")
        length_s = int(record.interval[:-1]) * _UNIT_S.get(record.interval[-1:], 60)
        # The candle that was forming may have closed meanwhile, and others been missed.
        follows = topic.time is None or record.time <= topic.time + (length_s if topic.closed else 0)
        if topic.broken is not None and not follows:
            out.append(topic.gap(record.time, topic.broken))
        topic.broken = None
        if topic.time is None or record.time >= topic.time:
            topic.time, topic.closed = record.time, record.closed
        out.append(record)

    def _take_gap(self, gap: Any, out: list[Record]) -> None:
        topic = self._topic(gap.broker, gap.symbol, gap.record_type)
        name = (gap.from_time, gap.to_time, gap.state, gap.cause)
        if name in topic.gaps:
            return  # announced again by a replay
        topic.gaps.append(name)
        topic.explained = True
        topic.expected = -1
        out.append(gap)


def _pieces(topics: list[_Topic]) -> Iterable[list[_Topic]]:
    for at in range(0, len(topics), ROWS):
        yield topics[at : at + ROWS]
