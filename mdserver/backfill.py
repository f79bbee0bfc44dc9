"""Fills gaps: fetches the missed records from the venue, stores them with their true times, and updates the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import time
from typing import Any, TypeAlias

import attrs
import structlog
import trio

from .errors import MdserverError, Rejected, StoreUnavailable, leaves
from .kinds import BY_NAME, Check, default_variant
from .log import RarelyLogged
from .model import DELETED, TIMEFRAMES, US_PER_S, Candle, Feed, Gap, GapState, Published, Record, Topic
from .net import HttpRefused
from .plugin import BrokerHistory
from .redact import redact
from .store.history.venue_candles import FINEST
from .store.store import GapRow, Store

__all__ = ["FilledGap", "GapFiller", "HistoryOf", "gaps_to_fill", "summary"]

MOST_AT_ONCE = 10_000
"""The most gaps of a state that one command fills."""
AT_ONCE = 5_000
"""The most records that are stored in one transaction."""

_SHOWN = 200  # characters of a record in the log
_FINEST_US = TIMEFRAMES[FINEST] * US_PER_S
_EDGE_US = 2
"""How far times in a venue's history may be off: records this near to the ends of a gap count as within it."""

_OF_CREDENTIALS = frozenset({401, 403, 407})

HistoryOf: TypeAlias = Callable[[str], BrokerHistory | None]
"""Returns the source of past records of a broker's venue, or None if its plugin has none. Raises LookupError if there
is no such broker."""

Pause: TypeAlias = Callable[[], Awaitable[None]]


@attrs.frozen
class FilledGap:
    """The result for a gap: its new state, the added records, and the reason if it is not filled (else empty).

    ``candles`` counts the venue's candles that were stored where it has no records.
    """

    gap: GapRow
    state: GapState
    added: int = 0
    why: str = ""
    candles: int = 0


@attrs.define
class _Taken:
    """What was stored of a gap so far."""

    records: int = 0
    candles: int = 0


async def gaps_to_fill(
    store: Store, broker: str | None, symbol: str | None, *, retry_permanent: bool
) -> list[GapRow]:
    """Return the gaps that a command fills, the oldest first: the open ones.

    With ``retry_permanent`` those that a venue refused are among them. What an operator deleted is not fetched again.
    """
    now_us = int(time() * US_PER_S)
    gaps = await store.gaps(0, now_us, broker=broker, symbol=symbol, state="open", limit=MOST_AT_ONCE)
    if retry_permanent:
        gaps += await store.gaps(
            0, now_us, broker=broker, symbol=symbol, state="permanent", but=[DELETED], limit=MOST_AT_ONCE
        )
        gaps.sort(key=lambda gap: gap.from_us)
    return gaps


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

        A partly filled gap stays open; its stored records are not stored again at the next attempt. A permanent gap is
        tried like an open one, and becomes open if the venue does not refuse it now.
        """
        taken = _Taken()
        failure: BaseException | None = None
        try:
            await self._take(gap, taken)
        except* Exception as group:  # noqa: BLE001 - a plugin may raise anything: it costs this gap only
            failure = _reason(group)
            if not isinstance(failure, MdserverError | LookupError | OSError | trio.TooSlowError):
                self._log.exception(
                    "a plugin failed to fetch the records of a gap", broker=gap.broker, exc_info=group
                )
        if isinstance(failure, StoreUnavailable):
            raise failure
        if failure is None:
            return await self._end(gap, "filled", taken, "")
        why = redact(str(failure)) or type(failure).__name__
        if isinstance(failure, Rejected) and not _is_of_credentials(failure):
            return await self._end(gap, "permanent", taken, why)
        self._log.warning("a gap cannot be filled now", **_about(gap), records=taken.records, error=why)
        if gap.state != "open":
            await self._mark(gap, "open")
        return FilledGap(gap, "open", taken.records, why, taken.candles)

    async def _take(self, gap: GapRow, taken: _Taken) -> None:
        """Store the venue's records of a gap; ``taken`` counts the new ones."""
        kind = BY_NAME[gap.type]
        if kind.stored is None:
            raise Rejected(f"records of the type {gap.type} are not stored")
        history = self._history_of(gap.broker)
        if history is None:
            raise LookupError("the broker's plugin cannot fetch past records")
        topic = Topic(gap.broker, gap.symbol, gap.type, default_variant(gap.type))
        checks = {kind.struct: kind.check()}
        if kind.stored.prices is not None:
            checks[Candle] = BY_NAME["candle"].check()
        await self._pause()
        async with aclosing(history.backfill(Feed(*topic[1:]), gap.from_us, gap.to_us)) as batches:
            async for batch in batches:
                good = [record for record in batch if self._fits(gap, checks, record)]
                candles = [record for record in good if isinstance(record, Candle)]
                records = [record for record in good if not isinstance(record, Candle)]
                for start in range(0, len(records), AT_ONCE):
                    taken.records += await self._store_some(topic, records[start : start + AT_ONCE])
                for start in range(0, len(candles), AT_ONCE):
                    taken.candles += await self._store_candles(topic, candles[start : start + AT_ONCE])
                await self._pause()

    def _fits(self, gap: GapRow, checks: Mapping[type, Check], record: Record) -> bool:
        """Return whether a record belongs to this gap and passes the checks; a candle must lie wholly in it."""
        check = checks.get(type(record))
        if check is None or record.symbol != gap.symbol:
            fault: str | None = "type"
        elif not isinstance(record.time_us, int):
            fault = "time"
        elif isinstance(record, Candle):
            if not gap.from_us <= record.time_us <= gap.to_us - _FINEST_US:
                return False
            fault = check.fault(record) if record.interval == FINEST and record.closed else "interval"
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

    async def _store_candles(self, topic: Topic, candles: Sequence[Candle]) -> int:
        opens = set(new := await self._store.add_missed_candles(topic, candles))
        self._on_stored([Published(topic, 0, candle) for candle in candles if candle.time_us in opens])
        return len(new)

    async def _end(self, gap: GapRow, state: GapState, taken: _Taken, why: str) -> FilledGap:
        if not await self._mark(gap, state):
            why = "it changed meanwhile: a further gap became part of it, or it was deleted"
            self._log.info(
                "a gap was not filled to its end", **_about(gap), records=taken.records, reason=why
            )
            return FilledGap(gap, "open", taken.records, why, taken.candles)
        if state == "filled":
            self._log.info("a gap was filled", **_about(gap), records=taken.records)
        elif taken.candles:
            self._log.info(
                "a gap is permanent: candles of the venue are stored in place of its records",
                **_about(gap),
                candles=taken.candles,
                reason=why,
            )
        else:
            self._log.warning("a gap is permanent: its records cannot be fetched", **_about(gap), reason=why)
        return FilledGap(gap, state, taken.records, why, taken.candles)

    async def _mark(self, gap: GapRow, state: GapState) -> bool:
        if not await self._store.mark_gap(gap.id, state, to_us=gap.to_us):
            return False
        if state != gap.state:
            topic = Topic(gap.broker, gap.symbol, gap.type, default_variant(gap.type))
            self._on_changed(Gap(topic, gap.from_us, gap.to_us, gap.cause, gap.size, state))
        return True


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the deciding error: one of storage first, then one that trying again cannot change, then any other."""
    errors = list(leaves(group))
    for kind in (StoreUnavailable, Rejected):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]


def _is_of_credentials(error: BaseException | None) -> bool:
    """Return whether a refusal is of the key or the address and not of the records, which another key may get."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, HttpRefused) and error.status in _OF_CREDENTIALS:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


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
        "candles": sum(result.candles for result in results),
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
                "candles": result.candles,
                "why": result.why or None,
            }
            for result in results
        ],
    }
