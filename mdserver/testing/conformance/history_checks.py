"""The checks of a history source: each a function that returns a fact for the scorecard or raises Failed."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import trio

from ...errors import BadMessage, Rejected, Unavailable, leaves
from ...market_hours import HOUR_US, MARKETS
from ...model import TickColumns
from ...plugin import HistoryHost, HistorySource, RawHour
from ...registry import check_descriptor
from .cases import HistoryCase
from .scorecard import Failed, NotApplicable, quoted
from .server import STOP_S, captured_log, load_settings, secrets_of
from .watch import SessionWatch, mark_session, nothing_left

__all__ = ["HISTORY_CHECKS", "HistoryCheck"]

Case: TypeAlias = HistoryCase[Any]
HistoryCheck: TypeAlias = Callable[[Case, SessionWatch], Awaitable[str]]

AT_ONCE = 20
CUTS = 30


@asynccontextmanager
async def _opened(
    case: Case, *, cache: Path | None = None
) -> AsyncIterator[tuple[Any, HistorySource, list[str]]]:
    """Open the venue and the source on it; the list collects everything that the source logs and notes."""
    async with case.open_venue() as venue:
        config = load_settings(case.plugin, case.settings(venue))
        with captured_log() as (log, lines):
            async with case.open_source(config, HistoryHost(log, lines.append, cache_dir=cache)) as source:
                yield venue, source, lines


async def descriptor(case: Case, watch: SessionWatch) -> str:
    """The server accepts the descriptor and the settings."""
    check_descriptor(case.plugin)
    if not case.plugin.summary.strip():
        raise Failed("the descriptor has no summary: `mdserver plugins` shows it")
    async with _opened(case):
        return case.plugin.summary


async def instruments(case: Case, watch: SessionWatch) -> str:
    """A known symbol is described; for an unknown one the source raises Rejected and names it."""
    async with _opened(case) as (_, source, _lines):
        found = source.instrument(case.symbol)
        if found.symbol != case.symbol or found.market not in MARKETS:
            raise Failed(f"found {found}, expected the symbol {case.symbol} and a market of {MARKETS}")
        try:
            other = source.instrument(case.unknown)
        except Rejected as error:
            if case.unknown not in str(error):
                raise Failed(f"the error does not name {case.unknown}: {error}") from None
            return f"{found.market}; “{str(error)[:70]}”"
        raise Failed(f"found {other} for {case.unknown}, expected Rejected")


async def ticks(case: Case, watch: SessionWatch) -> str:
    """An hour is fetched and decoded: times within it that never decrease, prices above zero, columns of one length."""
    async with _opened(case) as (_, source, _lines):
        raw = await source.fetch(case.symbol, case.full_hour_us)
        if raw.kind != "data":
            raise Failed(f"the full hour is {raw.kind!r}, expected 'data'")
        columns = await trio.to_thread.run_sync(source.decode, raw)
        again = await source.fetch(case.symbol, case.full_hour_us, fresh=True)
    _check_columns(columns, case.full_hour_us)
    if raw.checksum() != again.checksum():
        raise Failed("the same hour has two checksums: each import would store it again")
    return f"{len(columns.time_us)} ticks from {raw.service}"


def _check_columns(columns: TickColumns, hour_us: int) -> None:
    if len(lengths := {len(column) for column in columns}) != 1 or 0 in lengths:
        raise Failed(f"columns of {sorted(lengths)} rows, expected one length above 0")
    times = columns.time_us
    if times.dtype != np.int64 or any(column.dtype != np.float64 for column in columns[1:]):
        raise Failed("expected int64 for the times and float64 for all other columns")
    if times[0] < hour_us or times[-1] >= hour_us + HOUR_US or bool((np.diff(times) < 0).any()):
        raise Failed("the times are outside the hour or decrease")
    if not (bool((columns.bid > 0).all()) and bool((columns.ask >= columns.bid).all())):
        raise Failed("a price is not above 0, or an ask below its bid")


async def empty(case: Case, watch: SessionWatch) -> str:
    """An hour without ticks is ``empty``, one that the source does not have ``missing``; neither is an error."""
    expected = {"empty": case.empty_hour_us, "missing": case.missing_hour_us}
    known = {kind: hour_us for kind, hour_us in expected.items() if hour_us is not None}
    if not known:
        raise NotApplicable("the case names no such hour")
    async with _opened(case) as (_, source, _lines):
        for kind, hour_us in known.items():
            raw = await source.fetch(case.symbol, hour_us)
            if raw.kind != kind:
                raise Failed(f"found an hour of kind {raw.kind!r}, expected {kind!r}")
    return ", ".join(known)


async def unavailable(case: Case, watch: SessionWatch) -> str:
    """A source that cannot be reached raises Unavailable or Rejected; it never returns an hour without ticks."""
    async with _opened(case) as (venue, source, _):
        await case.go_away(venue)
        try:
            raw = await source.fetch(case.symbol, case.full_hour_us, fresh=True)
        except (Unavailable, Rejected) as error:
            return quoted(str(error))
        raise Failed(f"found an hour of kind {raw.kind!r}, expected Unavailable")


async def damage(case: Case, watch: SessionWatch) -> str:
    """A damaged hour raises BadMessage (or Unavailable) when it is fetched or decoded."""
    async with _opened(case) as (venue, source, _):
        await case.damage(venue)
        try:
            raw = await source.fetch(case.symbol, case.full_hour_us, fresh=True)
            columns = await trio.to_thread.run_sync(source.decode, raw)
        except (BadMessage, Unavailable) as error:
            return f"{type(error).__name__}: “{str(error)[:80]}”"
        raise Failed(f"{len(columns.time_us)} ticks of a damaged hour, expected BadMessage")


async def many_at_once(case: Case, watch: SessionWatch) -> str:
    """Many tasks may use the source at once."""
    found: list[RawHour] = []
    async with _opened(case) as (_, source, _lines):

        async def fetch() -> None:
            found.append(await source.fetch(case.symbol, case.full_hour_us))

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(fetch)
    if len({raw.checksum() for raw in found}) != 1:
        raise Failed("the same hour, fetched by several tasks, differs")
    return f"{AT_ONCE} tasks, one answer"


async def cache(case: Case, watch: SessionWatch) -> str:
    """A cache folder does not change the ticks, and foreign files in it cause no failure."""
    with tempfile.TemporaryDirectory() as folder:
        raws = []
        for _ in range(2):
            async with _opened(case, cache=Path(folder)) as (_, source, _lines):
                raws.append(await source.fetch(case.symbol, case.full_hour_us))
    if raws[0].checksum() != raws[1].checksum():
        raise Failed("the ticks from the cache differ from the fetched ones")
    return "used" if raws[1].cached else "not used"


async def cancellation(case: Case, watch: SessionWatch) -> str:
    """A fetch that is cancelled, at any step, ends at once and leaves neither tasks nor sockets."""
    steps = count = 0
    while count < CUTS:
        steps += max(1, steps // 8)
        async with nothing_left(f"cancelled at step {steps}"):
            scope = trio.CancelScope()
            async with _opened(case) as (_, source, _lines), trio.open_nursery() as nursery:

                async def fetch(source: HistorySource = source, scope: trio.CancelScope = scope) -> None:
                    mark_session()
                    with scope:
                        await source.fetch(case.symbol, case.full_hour_us, fresh=True)

                watch.cancel_after(steps, scope)
                began = trio.current_time()
                nursery.start_soon(fetch)
            if trio.current_time() - began > STOP_S + 10:
                raise Failed(f"cancelled at step {steps} it took too long to end")
        if not scope.cancel_called:
            break
        count += 1
    return f"{count} fetches cancelled up to step {steps}"


async def secrets(case: Case, watch: SessionWatch) -> str:
    """A secret of the config is never shown: not in a repr, the log or an error."""
    async with case.open_venue() as venue:
        config = load_settings(case.plugin, case.settings(venue))
    hidden = secrets_of(config)
    if not hidden:
        raise NotApplicable("the config has no secret")
    texts = [repr(config)]
    async with _opened(case) as (venue, source, lines):
        await source.fetch(case.symbol, case.full_hour_us)
        await case.go_away(venue)
        try:
            await source.fetch(case.symbol, case.full_hour_us, fresh=True)
        except* (Unavailable, Rejected) as group:
            texts += map(str, leaves(group))
        texts += lines
    if shown := [text for text in texts if any(secret in text for secret in hidden)]:
        raise Failed(f"a secret is shown in {len(shown)} texts")
    return f"{len(texts)} texts without any of {len(hidden)}"


HISTORY_CHECKS: dict[str, HistoryCheck] = {
    "descriptor": descriptor,
    "instruments": instruments,
    "ticks": ticks,
    "empty and missing": empty,
    "unavailable": unavailable,
    "damage": damage,
    "many at once": many_at_once,
    "cache": cache,
    "cancellation": cancellation,
    "secrets": secrets,
}
