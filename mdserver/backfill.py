"""Fills gaps: fetches the missed records from the venue, stores them with their true times, and updates the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import attrs
import structlog
import trio

from .errors import MdserverError, Rejected, StoreUnavailable, leaves
from .kinds import BY_NAME, Check, Kind, default_variant
from .log import RarelyLogged
from .model import US_PER_S, Feed, Gap, GapState, Published, Record, Topic
from .plugin import BrokerHistory
from .redact import redact
from .store.store import GapRow, Store

__all__ = ["FilledGap", "GapFiller", "HistoryOf", "summary"]

AT_ONCE = 5_000
"""The most records that are stored in one transaction."""

_SHOWN = 200  # characters of a record in the log
_EDGE_US = 2
"""How far times in a venue's history may be off: records this near to the ends of a gap count as within it."""

HistoryOf: TypeAlias = Callable[[str], BrokerHistory | None]
"""Returns the source of past records of a broker's venue, or None if its plugin has none. Raises LookupError if there
is no such broker."""

Pause: TypeAlias = Callable[[], Awaitable[None]]


@attrs.frozen
class FilledGap:
    """The result for a gap: its new state, the added records, and the reason if it is not filled (else empty)."""

    gap: GapRow
    state: GapState
    added: int = 0
    why: str = ""


class GapFiller:
    """Fills gaps of the ledger, one at a time.

    Args:
        store: Has the ledger and the records.
        history_of: Finds the source of past records.
        pause: Awaited before each batch, to keep to the request budget and not to delay streaming.
        on_stored: Called with the added records, because their candles have changed.
        on_changed: Called with a gap whose state has changed.
        log: Gets one event for each gap.
    """

    def __init__(
        self,
        store: Store,
        history_of: HistoryOf,
        *,
        pause: Pause = trio.lowlevel.checkpoint,
        on_stored: Callable[[Sequence[Published]], None] = lambda _: None,
        on_changed: Callable[[Gap], None] = lambda _: None,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._history_of = history_of
        self._pause = pause
        self._on_stored = on_stored
        self._on_changed = on_changed
        self._log = log
        self._rarely = RarelyLogged(log)

    async def fill(self, gap: GapRow) -> FilledGap:
        """Fill a gap as far as the venue's history goes. Raises StoreUnavailable; the result has any other error.

        A partly filled gap stays open; its stored records are not stored again at the next attempt.
        """
        added: list[int] = []
        failure: BaseException | None = None
        try:
            await self._take(gap, added)
        except* Exception as group:  # noqa: BLE001 - a plugin may raise anything: it costs this gap only
            failure = _reason(group)
            if not isinstance(failure, MdserverError | LookupError | OSError | trio.TooSlowError):
                self._log.exception(
                    "a plugin failed to fetch the records of a gap", broker=gap.broker, exc_info=group
                )
        if isinstance(failure, StoreUnavailable):
            raise failure
        if failure is None:
            return await self._end(gap, "filled", sum(added), "")
        why = redact(str(failure)) or type(failure).__name__
        if isinstance(failure, Rejected):
            return await self._end(gap, "permanent", sum(added), why)
        self._log.warning("a gap cannot be filled now", **_about(gap), records=sum(added), error=why)
        return FilledGap(gap, "open", sum(added), why)

    async def _take(self, gap: GapRow, added: list[int]) -> None:
        """Store the venue's records of a gap; the number of new ones of each batch is appended to ``added``."""
        kind = BY_NAME[gap.type]
        if kind.stored is None:
            raise Rejected(f"records of the type {gap.type} are not stored")
        history = self._history_of(gap.broker)
        if history is None:
            raise LookupError("the broker's plugin cannot fetch past records")
        topic = Topic(gap.broker, gap.symbol, gap.type, default_variant(gap.type))
        check = kind.check()
        await self._pause()
        async with aclosing(history.backfill(Feed(*topic[1:]), gap.from_us, gap.to_us)) as batches:
            async for batch in batches:
                good = [record for record in batch if self._fits(gap, kind, check, record)]
                for some in (good[start : start + AT_ONCE] for start in range(0, len(good), AT_ONCE)):
                    new = await self._store_some(topic, some)
                    added.append(new)
                await self._pause()

    def _fits(self, gap: GapRow, kind: Kind, check: Check, record: Record) -> bool:
        """Return whether a record belongs to this gap and passes the checks."""
        if type(record) is not kind.struct or record.symbol != gap.symbol:
            fault: str | None = "type"
        elif not isinstance(record.time_us, int):
            fault = "time"
        elif not gap.from_us - _EDGE_US <= record.time_us <= gap.to_us + _EDGE_US:
            return False
        else:
            fault = check.fault(record)
        if fault is not None:
            self._rarely.warning("past record rejected", reason=fault, record=str(record)[:_SHOWN])
        return fault is None

    async def _store_some(self, topic: Topic, records: Sequence[Record]) -> int:
        times = set(new := await self._store.add_missed(topic, records))
        self._on_stored([Published(topic, 0, record) for record in records if record.time_us in times])
        return len(new)

    async def _end(self, gap: GapRow, state: GapState, added: int, why: str) -> FilledGap:
        await self._store.mark_gap(gap.id, state)
        topic = Topic(gap.broker, gap.symbol, gap.type, default_variant(gap.type))
        self._on_changed(Gap(topic, gap.from_us, gap.to_us, gap.cause, gap.size, state))
        if state == "filled":
            self._log.info("a gap was filled", **_about(gap), records=added)
        else:
            self._log.warning("a gap is permanent: its records cannot be fetched", **_about(gap), reason=why)
        return FilledGap(gap, state, added, why)


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the deciding error: one of storage first, then one that trying again cannot change, then any other."""
    errors = list(leaves(group))
    for kind in (StoreUnavailable, Rejected):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]


def _about(gap: GapRow) -> dict[str, object]:
    return {
        "broker": gap.broker,
        "symbol": gap.symbol,
        "type": gap.type,
        "cause": gap.cause,
        "seconds": round((gap.to_us - gap.from_us) / US_PER_S, 3),
    }


def summary(results: Sequence[FilledGap]) -> dict[str, Any]:
    """Return the results for gaps as commands print them: times in Unix seconds, counts by state."""
    counts = Counter(result.state for result in results)
    return {
        **{state: counts[state] for state in ("filled", "permanent", "open")},
        "records": sum(result.added for result in results),
        "gaps": [
            {
                "broker": result.gap.broker,
                "symbol": result.gap.symbol,
                "record_type": result.gap.type,
                "from": result.gap.from_us / US_PER_S,
                "to": result.gap.to_us / US_PER_S,
                "cause": result.gap.cause,
                "state": result.state,
                "records": result.added,
                "why": result.why or None,
            }
            for result in results
        ],
    }
