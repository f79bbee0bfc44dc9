"""What an import did, for people and for programs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from ...store.store import HourResult
from .plan import Dates, SymbolPlan

__all__ = ["Summary", "SymbolSummary", "hour_text"]

SHOWN = 20
"""Hours listed in the text; JSON has all of them."""


@attrs.define
class SymbolSummary:
    """The hours of one symbol by what became of them; ``ticks`` are those that were written."""

    plan: SymbolPlan
    counts: Counter[str] = attrs.Factory(Counter)
    ticks: int = 0
    empty: list[int] = attrs.Factory(list)
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
            elif result.status == "failed":
                self.failed.append(result)
        self.ticks += written
        return written

    @property
    def not_tried(self) -> int:
        return len(self.plan.wanted) - self.counts.total()

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints of a symbol."""
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
                "failed": self.counts["failed"],
                "not_tried": self.not_tried,
            },
            "empty_open_hours": [hour_text(hour) for hour in sorted(self.empty)]
            if self.plan.notes_empty
            else [],
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
            (counts["failed"], "failed"),
            (self.not_tried, "not tried"),
        ]
        hours = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        yield f"{plan.symbol}: {self.ticks:,} ticks; hours: {hours or 'none'}"
        if self.empty and plan.notes_empty:
            yield f"  no ticks although the market was open: {_listed(sorted(self.empty))}"
        failed = self._failed_in_order()
        for result in failed[:SHOWN]:
            yield f"  failed: {hour_text(result.hour_us)}: {result.cause}"
        if len(failed) > SHOWN:
            yield f"  and {len(failed) - SHOWN:,} more (--json lists all)"

    def _failed_in_order(self) -> list[HourResult]:
        return sorted(self.failed, key=lambda result: result.hour_us)


@attrs.define
class Summary:
    """One run. ``stopped`` says why it ended before its time, None if it did not."""

    source: str
    dates: Dates
    symbols: dict[str, SymbolSummary]
    seconds: float = 0.0
    stopped: str | None = None
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return self.stopped is None and not any(one.failed for one in self.symbols.values())

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
            yield f"stopped: {self.stopped}; the same command goes on from here"
        elif not self.ok:
            yield "hours failed; the same command tries them again"


def hour_text(hour_us: int) -> str:
    """Return ``2024-03-01T17:00Z``."""
    return f"{datetime.fromtimestamp(hour_us / 1_000_000, UTC):%Y-%m-%dT%H:%MZ}"


def _listed(hours_us: Sequence[int]) -> str:
    text = ", ".join(hour_text(hour) for hour in hours_us[:SHOWN])
    return text if len(hours_us) <= SHOWN else f"{text} and {len(hours_us) - SHOWN:,} more"
