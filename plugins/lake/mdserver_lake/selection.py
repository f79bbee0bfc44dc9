"""Which series and days a command is about, and what became of each: shared by push, pull, verify and status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import attrs

from .layout import Place

__all__ = ["Failed", "Report", "Selection", "size_text"]

SHOWN = 8
"""How many failures the text lists; JSON has all."""


@attrs.frozen
class Selection:
    """What to work on; nothing given is everything."""

    symbols: tuple[str, ...] = ()
    broker: str | None = None
    first: date | None = None
    last: date | None = None

    def has_series(self, broker: str, symbol: str) -> bool:
        """Return whether a series is meant."""
        return self.broker in (None, broker) and (not self.symbols or symbol in self.symbols)

    def has_day(self, day: date) -> bool:
        """Return whether a day is meant."""
        return (self.first is None or day >= self.first) and (self.last is None or day <= self.last)

    def has(self, place: Place) -> bool:
        """Return whether an object is meant."""
        return self.has_series(place.broker, place.symbol) and self.has_day(place.day)


@attrs.frozen
class Failed:
    """What could not be done, and why."""

    what: str
    why: str


@attrs.define
class Report:
    """What a command did. ``done``: days of series; ``known``: those that needed nothing; ``rows`` are records.

    ``stopped`` is why it ends early: then nothing more is begun. ``begun``: planning is over, days are in hand.
    """

    did: str
    done: int = 0
    known: int = 0
    rows: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    failed: list[Failed] = attrs.Factory(list)
    notices: list[str] = attrs.Factory(list)
    stopped: str | None = None
    interrupted: bool = False
    begun: bool = False
    planned: list[str] | None = None
    """The days that would be worked on, of a dry run."""

    @property
    def ok(self) -> bool:
        """Whether all was done."""
        return not self.failed and self.stopped is None

    def notice(self, text: str) -> None:
        """Note something for the operator, once."""
        if text not in self.notices:
            self.notices.append(text)

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        found = attrs.asdict(self)
        for name in ("did", "begun"):
            found.pop(name)
        planned = found.pop("planned")
        return {"ok": self.ok, **found, **({} if planned is None else {"planned": planned})}

    def lines(self) -> Iterator[str]:
        """Yield the text for people."""
        yield from self.notices
        if self.planned is not None:
            yield from _spans(self.planned)
            yield f"{len(self.planned):,} days would be {self.did}; {self.known:,} need nothing"
            return
        for one in self.failed[:SHOWN]:
            yield f"failed: {one.what}: {one.why}"
        if len(self.failed) > SHOWN:
            yield f"and {len(self.failed) - SHOWN:,} more failures (--json lists all)"
        speed = f" ({self.rows / self.seconds:,.0f} a second)" if self.rows and self.seconds else ""
        yield (
            f"{self.done:,} days {self.did}, {self.rows:,} records in {self.seconds:.1f} s{speed}, "
            f"{size_text(self.size_bytes)}; {self.known:,} needed nothing"
        )
        if self.stopped is not None:
            yield f"stopped: {self.stopped}; the same command continues"
        elif self.failed:
            yield f"{len(self.failed):,} failed; the same command tries them again"


def _spans(planned: Sequence[str]) -> Iterator[str]:
    """Yield planned days by series: ``dukascopy EURUSD tick: 2024-03-04 to 2024-03-08, 5 days``."""
    by_series: dict[str, list[str]] = {}
    for one in planned:
        series, _, day = one.rpartition(" ")
        by_series.setdefault(series, []).append(day)
    for series, days in by_series.items():
        yield f"{series}: {min(days)} to {max(days)}, {len(days):,} days"


def size_text(size_bytes: float) -> str:
    """Return a size for people: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} TB"
