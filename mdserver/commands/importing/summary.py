"""The summary of an import, for people and for programs. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from ...store.store import HourResult
from .plan import Dates, SymbolPlan

__all__ = ["Summary", "SymbolSummary", "hour_text"]

SHOWN = 8
"""How many hours and causes the text lists; JSON has all of them."""

_ADDRESS = re.compile(r"(?:\bhttps?://|(?<![\w.])/)\S+?(?=[:;,]?(?:\s|$))")
"""A URL or a path within a cause."""


@attrs.define
class SymbolSummary:
    """The hours of one symbol by their outcome; ``ticks`` is the number of ticks written."""

    plan: SymbolPlan
    counts: Counter[str] = attrs.Factory(Counter)
    ticks: int = 0
    empty: list[int] = attrs.Factory(list)
    denied: list[int] = attrs.Factory(list)
    failed: list[HourResult] = attrs.Factory(list)

    def add(self, results: Sequence[HourResult]) -> int:
        """Count the results of a chunk; return how many ticks were written."""
        written = 0
        for result in results:
            self.counts[result.status] += 1
            if result.status in ("added", "replaced"):
                written += result.row_count
            elif result.status == "empty":
                self.empty.append(result.hour_us)
            elif result.status == "denied":
                self.denied.append(result.hour_us)
            elif result.status == "failed":
                self.failed.append(result)
        self.ticks += written
        return written

    @property
    def ok(self) -> bool:
        """Whether no hour failed, and none was denied where that is unusual."""
        return not self.failed and not (self.denied and self.plan.notes_empty)

    @property
    def not_tried(self) -> int:
        return len(self.plan.wanted) - self.counts.total()

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints for a symbol."""
        return {
            "symbol": self.plan.symbol,
            "ticks": self.ticks,
            "hours": {
                "added": self.counts["added"],
                "replaced": self.counts["replaced"],
                "unchanged": self.counts["unchanged"],
                "empty": self.counts["empty"],
                "skipped": self.plan.known,
                "closed": self.plan.closed,
                "before_start": self.plan.before_start,
                "not_over": self.plan.not_over,
                "denied": self.counts["denied"],
                "failed": self.counts["failed"],
                "not_tried": self.not_tried,
            },
            "empty_open_hours": [hour_text(hour) for hour in sorted(self.empty)]
            if self.plan.notes_empty
            else [],
            "denied": [hour_text(hour) for hour in sorted(self.denied)],
            "failed": [
                {"hour": hour_text(result.hour_us), "cause": result.cause}
                for result in self._failed_in_order()
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield the text of a symbol."""
        counts, plan = self.counts, self.plan
        parts = [
            (counts["added"], "added"),
            (counts["replaced"], "replaced"),
            (counts["unchanged"], "unchanged"),
            (counts["empty"], "empty"),
            (plan.known, "already there"),
            (plan.closed, "closed"),
            (plan.before_start, "before the start of history"),
            (plan.not_over, "not over"),
            (counts["denied"], "denied by the source"),
            (counts["failed"], "failed"),
            (self.not_tried, "not tried"),
        ]
        hours = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        yield f"{plan.symbol}: {self.ticks:,} ticks; hours: {hours or 'none'}"
        if self.empty and plan.notes_empty:
            yield f"  no ticks although the market was open: {_listed(sorted(self.empty))}"
        if self.denied:
            yield f"  denied by the source: {_listed(sorted(self.denied))}"
            yield "    they are tried again next time; --accept-empty records them as empty"
        yield from self._failed_lines()

    def _failed_lines(self) -> Iterator[str]:
        """Yield the failed hours by cause, each cause once: causes that differ only in the address are the same."""
        causes: dict[str, list[HourResult]] = {}
        for result in self._failed_in_order():
            causes.setdefault(_ADDRESS.sub("", result.cause).replace(": : ", ": ").lstrip(": "), []).append(
                result
            )
        for number, (cause, results) in enumerate(causes.items()):
            if number == SHOWN:
                yield f"  and {len(causes) - SHOWN:,} more causes (--json lists all)"
                return
            if len(results) == 1:
                yield f"  failed: {hour_text(results[0].hour_us)}: {results[0].cause}"
            else:
                hours = _listed([result.hour_us for result in results])
                same = len({result.cause for result in results}) == 1
                yield f"  failed: {len(results):,} hours: {results[0].cause if same else cause}"
                yield f"    {hours}"
                if not same and (address := _ADDRESS.search(results[0].cause)):
                    yield f"    for example {address[0]}"

    def _failed_in_order(self) -> list[HourResult]:
        return sorted(self.failed, key=lambda result: result.hour_us)


@attrs.define
class Summary:
    """One run. ``stopped`` is why it ended early, None if it did not."""

    source: str
    dates: Dates
    symbols: dict[str, SymbolSummary]
    seconds: float = 0.0
    stopped: str | None = None
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return self.stopped is None and all(one.ok for one in self.symbols.values())

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "ok": self.ok,
            "source": self.source,
            "from": self.dates.first.isoformat(),
            "to": self.dates.last.isoformat(),
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "symbols": [one.as_json() for one in self.symbols.values()],
        }

    def lines(self) -> Iterator[str]:
        """Yield the text for people."""
        for one in self.symbols.values():
            yield from one.lines()
        ticks = sum(one.ticks for one in self.symbols.values())
        rate = f" ({ticks / self.seconds:,.0f} ticks/s)" if ticks and self.seconds else ""
        yield f"{ticks:,} ticks from {self.source} in {self.seconds:.1f} s{rate}"
        if self.stopped is not None:
            yield f"stopped: {self.stopped}; the same command continues the import"
        elif not self.ok:
            yield "hours are missing; the same command tries them again"


def hour_text(hour_us: int) -> str:
    """Return ``2024-03-01T17:00Z``."""
    return f"{datetime.fromtimestamp(hour_us / 1_000_000, UTC):%Y-%m-%dT%H:%MZ}"


def _listed(hours_us: Sequence[int]) -> str:
    text = ", ".join(hour_text(hour) for hour in hours_us[:SHOWN])
    return text if len(hours_us) <= SHOWN else f"{text} and {len(hours_us) - SHOWN:,} more"
