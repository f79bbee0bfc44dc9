"""The ``id`` of a server-sent event: how far the client is in each topic, so that the last one resumes all. Pure.

``5f3a9c21/binance:1042,7,,oanda:3``: the epoch, then for each symbol and type of the request, in its order, the number
of the last record. A broker is named where it is another than that of the number before. An empty place has no number:
it is of a type that is not stored, or could not be served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import quote, unquote

__all__ = ["Positions", "StreamKey", "parse_event_id"]

StreamKey: TypeAlias = tuple[str, str]
"""Symbol and type: what one client of server-sent events has once at most."""

MAX_DIGITS = 19


class Positions:
    """Where one client is. ``order``: what its request named; ``known``: the broker and last number of each.

    The number of a topic may be None at first: it is not known before the first record.
    """

    __slots__ = ("_at", "_brokers", "_epoch", "_places", "_texts")

    def __init__(
        self, epoch: str, order: Iterable[StreamKey], known: Mapping[StreamKey, tuple[str, int | None]]
    ) -> None:
        self._epoch = quote(epoch, safe="")
        self._places = {key: place for place, key in enumerate(order) if key in known}
        size = max(self._places.values(), default=-1) + 1
        self._brokers: list[str] = [""] * size
        self._texts = [""] * size
        self._at: list[int | None] = [None] * size
        for key, place in self._places.items():
            self._brokers[place], self._at[place] = known[key]
        self._write_texts()

    def advance(self, broker: str, key: StreamKey, seq: int) -> None:
        """Note that the client gets a record."""
        place = self._places.get(key)
        if place is None:
            return
        is_first, self._at[place] = self._at[place] is None, seq
        if is_first or self._brokers[place] != broker:
            self._brokers[place] = broker
            self._write_texts()
        else:
            head = self._texts[place].rpartition(":")
            self._texts[place] = f"{head[0]}{head[1]}{seq}"

    def event_id(self) -> str:
        """Return the id of an event behind which the client is where it is now."""
        return f"{self._epoch}/{','.join(self._texts)}"

    def _write_texts(self) -> None:
        before = ""
        for place in self._places.values():
            broker = self._brokers[place]
            if self._at[place] is None:
                continue
            named = "" if broker == before else quote(broker, safe="") + ":"
            self._texts[place] = f"{named}{self._at[place]}"
            before = broker


def parse_event_id(text: str, order: Sequence[StreamKey]) -> tuple[str, list[tuple[str, str, str, int]]]:
    """Return the epoch and the rows broker, symbol, type, seq. Raises ValueError if it is of another request."""
    epoch, slash, places = text.partition("/")
    entries = places.split(",") if places else []
    if not slash or not epoch or len(entries) > len(order):
        raise ValueError("expected the id of an event of the same request")
    rows: list[tuple[str, str, str, int]] = []
    broker = ""
    for entry, (symbol, kind) in zip(entries, order, strict=False):
        if not entry:
            continue
        named, _, digits = entry.rpartition(":")
        broker = unquote(named) or broker
        if not broker or not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
            raise ValueError("expected the id of an event of the same request")
        rows.append((broker, symbol, kind, int(digits)))
    return unquote(epoch), rows
