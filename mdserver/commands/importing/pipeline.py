"""Fetch, decode and load at the same time, in bounded memory for any range.

Two chunks are fetched and two loaded at a time, and one waits in between. So at most five chunks of undecoded files are
in memory, which take a tenth of the space of their ticks. They are decoded by the loading threads, hour by hour (see
``store/history/load_hours.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import attrs
import trio

from ...errors import BadMessage, Rejected, StoreUnavailable, Unavailable
from ...model import TickColumns
from ...plugin import HistorySource, RawHour
from ...store.store import FetchedHour
from .plan import Chunk
from .progress import ImportProgress
from .summary import Summary, hour_text
from .target import Target

__all__ = ["Importer"]

FETCHING = 2
"""Chunks fetched at a time; the source decides how many requests it makes at a time."""

LOADING = 2
"""Transactions at a time."""

HOURS_AT_ONCE = 32
"""Hours requested from the source at the same time."""

GIVE_UP_AFTER = 24
"""After so many failed hours in a row the source is taken to be unavailable, and the rest is not tried."""


@attrs.define(eq=False)
class Importer:
    """One run.

    ``replace``: hours are fetched again, bypassing the source's cache. ``accept_empty``: denied ones count as empty.
    """

    target: Target
    source: HistorySource
    summary: Summary
    progress: ImportProgress
    replace: bool = False
    accept_empty: bool = False
    _failed_in_a_row: int = 0
    _target_gone: bool = False
    _parts: list[tuple[Chunk, list[FetchedHour]]] = attrs.Factory(list)
    _fetching: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _hours: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(HOURS_AT_ONCE))

    async def run(self, chunks: Iterator[Chunk]) -> None:
        """Import all chunks; if stopped, those that were begun.

        Raises StoreUnavailable if the database stays unavailable; what is stored by then stays stored. A lake that is
        away stops the import, with the reason in the summary.
        """
        send, receive = trio.open_memory_channel[tuple[Chunk, list[FetchedHour]]](1)
        async with trio.open_nursery() as nursery:
            for _ in range(LOADING):
                nursery.start_soon(self._load_chunks, receive.clone())
            receive.close()
            async with send:
                with self._fetching:
                    async with trio.open_nursery() as fetching:
                        for _ in range(FETCHING):
                            fetching.start_soon(self._fetch_chunks, chunks, send)
                # Outside of the scope that stop() cancels: what was fetched of unfinished chunks is stored too.
                for part in self._parts:
                    await send.send(part)

    def stop(self, why: str, *, interrupted: bool = False) -> None:
        """Stop fetching; what has been fetched is still stored."""
        self.summary.stopped = self.summary.stopped or why
        self.summary.interrupted = self.summary.interrupted or interrupted
        self._fetching.cancel()

    async def _fetch_chunks(
        self, chunks: Iterator[Chunk], send: trio.MemorySendChannel[tuple[Chunk, list[FetchedHour]]]
    ) -> None:
        for chunk in chunks:  # the iterator is shared, so each chunk goes to one of the tasks
            fetched: list[FetchedHour] = []
            sent = False
            try:
                async with trio.open_nursery() as nursery:
                    for hour_us in chunk.hours_us:
                        await self._hours.acquire_on_behalf_of((chunk.symbol, hour_us))
                        nursery.start_soon(self._fetch, chunk.symbol, hour_us, fetched)
                if fetched:
                    await send.send((chunk, fetched))
                sent = True
            finally:
                if fetched and not sent:  # stopped: run() stores the part that was fetched
                    self._parts.append((chunk, fetched))

    async def _fetch(self, symbol: str, hour_us: int, fetched: list[FetchedHour]) -> None:
        try:
            if self._failed_in_a_row < GIVE_UP_AFTER:
                fetched.append(await self._fetch_one(symbol, hour_us))
        finally:
            self._hours.release_on_behalf_of((symbol, hour_us))

    async def _fetch_one(self, symbol: str, hour_us: int) -> FetchedHour:
        try:
            raw = await self.source.fetch(symbol, hour_us, fresh=self.replace)
        except (Unavailable, Rejected, BadMessage) as error:
            if not isinstance(error, BadMessage):
                self._failed_in_a_row += 1
            if self._failed_in_a_row == GIVE_UP_AFTER:
                self.summary.stopped = (
                    f"{GIVE_UP_AFTER} hours in a row could not be fetched, the last one: {error}"
                )
            return FetchedHour(hour_us, "failed", _no_ticks, cause=str(error))
        self._failed_in_a_row = 0
        return _fetched(raw, self.source, accept_empty=self.accept_empty)

    async def _load_chunks(self, receive: trio.MemoryReceiveChannel[tuple[Chunk, list[FetchedHour]]]) -> None:
        async with receive:
            async for chunk, fetched in receive:
                if self._target_gone:
                    continue
                try:
                    results = await self.target.load_hours(chunk.symbol, fetched)
                except StoreUnavailable:
                    raise
                except (Unavailable, Rejected) as error:
                    self._target_gone = True
                    self.stop(str(error))
                    continue
                ticks = self.summary.symbols[chunk.symbol].add(results)
                failed = sum(result.status == "failed" for result in results)
                self.progress.advance(chunk.symbol, _span(chunk), len(results), ticks, failed)


def _fetched(raw: RawHour, source: HistorySource, *, accept_empty: bool) -> FetchedHour:
    denied = raw.kind == "missing"
    says = "the source reports that it has no such hour" if raw.settled else "there is no such file"
    cause = f"{raw.origin}: {says}" if denied else ""
    return FetchedHour(
        raw.hour_us,
        "accepted" if denied and accept_empty else raw.kind,
        partial(source.decode, raw),
        raw.checksum() if raw.kind == "data" else "",
        raw.service,
        raw.origin,
        cause,
        raw.settled,
    )


def _no_ticks() -> TickColumns:
    raise BadMessage("nothing was fetched")


def _span(chunk: Chunk) -> str:
    return f"{hour_text(chunk.hours_us[0])} to {hour_text(chunk.hours_us[-1])}"
