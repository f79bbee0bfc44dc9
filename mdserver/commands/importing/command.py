"""``mdserver run import``: its options, and the steps of a run."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import click
import trio

from ...config import Config, HistoryEntry
from ...errors import ConfigError
from ...log import get_logger
from ...plugin import CommandContext, CommandPlugin, HistoryHost, HistoryPlugin, HistorySource
from ...registry import open_lake
from ...store.connection.database import Database
from ...store.open_database import open_configured
from ...store.store import Store
from ...store.tables.recreate_indexes import recreate
from ...store.tables.secondary_indexes import drop_secondary, status
from ...symbols import canonical_all, symbols_of_lines
from ..day import DAY
from .lake_target import LakeTarget
from .pipeline import Importer
from .plan import Chunk, Dates, SymbolPlan, last_days, make_chunks, plan_symbol
from .progress import ImportProgress
from .summary import Summary, SymbolSummary
from .target import DatabaseTarget, Target

__all__ = ["Options", "plugin", "run_import"]

SUMMARY = "Import recorded ticks"
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

MAX_CHUNK_DAYS = 31
"""A chunk is one transaction, and its files are in memory."""

STATEMENT_S = 3_600.0
"""How long the COPY of a chunk may take: a slow disk is no reason to give up."""


@attrs.frozen
class Options:
    """The options of the command line."""

    symbols: tuple[str, ...]
    dates: Dates
    to_lake: bool = False
    source_dir: Path | None = None
    chunk_days: int | None = None
    manage_indexes: bool = False
    replace: bool = False
    accept_empty: bool = False
    dry_run: bool = False


LAKE = "lake"


def _dates_or_lake(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[datetime | str, ...]:
    """Convert what ``--to`` takes: the last day, and where the ticks go."""
    return tuple(LAKE if one == LAKE else DAY.convert(one, param, ctx) for one in given)


@click.command("import", short_help=SUMMARY)
@click.option("--symbol", "symbols", multiple=True, metavar="SYMBOL", help="May be repeated.")
@click.option(
    "--symbols-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A text file with a symbol in each line; # begins a comment.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="The last N whole days, up to yesterday.")
@click.option("--from", "first", type=DAY, metavar="DATE", help="First day, such as 2024-03-01, UTC.")
@click.option(
    "--to",
    "to",
    callback=_dates_or_lake,
    multiple=True,
    metavar="DATE|lake",
    help="Last day, inclusive; default: yesterday. --to lake: into the data lake, not the database.",
)
@click.option("--source", metavar="NAME", help="A source in the config's history; default: the first.")
@click.option(
    "--source-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Read files from this folder, not from the network.",
)
@click.option(
    "--chunk",
    "chunk_days",
    type=click.IntRange(1, MAX_CHUNK_DAYS),
    metavar="DAYS",
    help="Days in one transaction; default: a calendar month.",
)
@click.option(
    "--manage-indexes", is_flag=True, help="Drop secondary indexes first and recreate them at the end."
)
@click.option("--replace", is_flag=True, help="Fetch all hours again and replace those that differ.")
@click.option(
    "--accept-empty",
    is_flag=True,
    help="Record hours that the source reports not to have as hours without ticks.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def _command(
    context: CommandContext,
    /,
    symbols: tuple[str, ...],
    symbols_file: Path | None,
    days: int | None,
    first: datetime | None,
    to: tuple[datetime | str, ...],
    source: str | None,
    as_json: bool,
    **rest: object,
) -> None:
    """Import recorded ticks, such as: mdserver run import --symbol EURUSD --days 7

    Imported hours are skipped, so the same command continues an interrupted import. The exit code is 0 if no hour
    failed or was denied; failed and denied hours are tried again next time.

    An hour is denied if the source reports that it has no such hour (HTTP 404) although the market was open. That does
    not prove that there were no ticks. With --accept-empty it is recorded as empty.

    With --to lake the ticks go into the data lake of the config (lake.url), closed days only, as `mdserver run lake
    push` would write them. No database is needed then.
    """
    last, to_lake = _target(to)
    chosen = Options(_canonical(symbols, symbols_file), _dates(days, first, last), to_lake)
    options = attrs.evolve(chosen, **rest)  # type: ignore[arg-type]
    if to_lake and options.manage_indexes:
        raise click.UsageError("--manage-indexes is about the database, expected it without --to lake")
    config = context.config
    entry = _entry(config, source, context.history)
    summary = context.run(run_import, config, entry, context.history[entry.plugin], options)
    if as_json:
        click.echo(json.dumps(summary.as_json()))
    else:
        click.echo("\n".join(_dry_lines(summary) if options.dry_run else summary.lines()))
    if summary.interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if not summary.ok:
        raise click.exceptions.Exit(EXIT_FAILED)


async def run_import(config: Config, entry: HistoryEntry, plugin: HistoryPlugin, options: Options) -> Summary:
    """Import from one source of the config as ``options`` say; return a summary.

    After the first SIGINT or SIGTERM it stores what has been fetched and stops; a second one stops it at once. Raises
    Rejected for a symbol that the source does not have, StoreUnavailable if the database stays unavailable.
    """
    began = time.monotonic()
    log = get_logger("mdserver")
    async with AsyncExitStack() as stack:
        progress = stack.enter_context(ImportProgress())
        database: Database | None = None
        target: Target
        if options.to_lake:
            lake = await trio.to_thread.run_sync(open_lake, config.lake, config.plugin_folders)
            target = LakeTarget(lake, entry.name, replace=options.replace)
        else:
            database = await stack.enter_async_context(
                open_configured(config.database, config.data_dir, statement_timeout_s=STATEMENT_S, log=log)
            )
            target = DatabaseTarget(Store(database), entry.name, log)
        host = HistoryHost(
            log=log,
            notice=progress.notice,
            cache_dir=None if options.source_dir else config.data_dir / "history" / entry.name,
            source_dir=options.source_dir,
        )
        source = await stack.enter_async_context(plugin.factory(entry.settings, host))
        plans = await _plan(target, source, options)
        summary = Summary(entry.name, options.dates, {plan.symbol: SymbolSummary(plan) for plan in plans})
        if not options.dry_run:
            progress.start(sum(len(plan.wanted) for plan in plans))
            importer = Importer(
                target,
                source,
                summary,
                progress,
                replace=options.replace,
                accept_empty=options.accept_empty,
            )
            await _run(importer, database, plans, options)
    summary.seconds = time.monotonic() - began
    return summary


async def _run(
    importer: Importer, database: Database | None, plans: Sequence[SymbolPlan], options: Options
) -> None:
    chunks = make_chunks(plans, options.dates, options.chunk_days)
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, importer, nursery.cancel_scope)
        if options.manage_indexes and database is not None:
            drop = any(plan.wanted for plan in plans)
            await _run_managing_indexes(importer, database, chunks, drop=drop)
        else:
            await importer.run(chunks)
        nursery.cancel_scope.cancel()


async def _run_managing_indexes(
    importer: Importer, database: Database, chunks: Iterator[Chunk], *, drop: bool
) -> None:
    """Import without secondary indexes and recreate them, also those that an earlier run left dropped.

    If anything keeps it from recreating them, it prints which are missing.
    """
    notice = importer.progress.notice
    missing = {index.name for index in (await status(database)).dropped}
    if drop:
        for dropped in await drop_secondary(database):
            notice(f"dropped the index {dropped.name} of {dropped.table}")
            missing.add(dropped.name)
    try:
        await importer.run(chunks)
        if not importer.summary.interrupted:
            for index in (await recreate(database)).indexes:
                made = index.lost or f"recreated in {index.seconds:.1f} s"
                notice(f"index {index.name} of {index.table}: {made}")
            missing.clear()
    finally:
        if missing:
            names = ", ".join(sorted(missing))
            notice(f"still dropped: {names}; `mdserver run indexes recreate` builds them again")


async def _watch_signals(
    importer: Importer,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if importer.summary.interrupted:
                everything.cancel()
                return
            importer.progress.notice(
                "stopping after what has been fetched is stored; press Ctrl-C again to stop at once"
            )
            importer.stop("interrupted", interrupted=True)


async def _plan(target: Target, source: HistorySource, options: Options) -> list[SymbolPlan]:
    """Plan each symbol; all symbols are checked before anything is fetched."""
    instruments = [source.instrument(symbol) for symbol in options.symbols]
    dates, over_us = options.dates, target.over_us(time.time_ns() // 1000)
    plans: list[SymbolPlan] = []
    for instrument in instruments:
        settled = await target.open_symbol(instrument.symbol, dates, create=not options.dry_run)
        plans.append(plan_symbol(instrument, dates, settled, now_us=over_us, replace=options.replace))
    return plans


def _target(given: Sequence[datetime | str]) -> tuple[datetime | None, bool]:
    """Return the last day, if one is given, and whether the ticks go into the lake."""
    dates = [one for one in given if isinstance(one, datetime)]
    if len(dates) > 1 or len(given) - len(dates) > 1:
        raise click.UsageError("found --to twice, expected one date, and --to lake at most once")
    return (dates[0] if dates else None), len(given) > len(dates)


def _canonical(symbols: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    try:
        found = canonical_all(symbols)
        if file is not None:
            found += symbols_of_lines(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(str(error) if file is None else f"{file}: {error}") from None
    if not found:
        raise click.UsageError("expected --symbol or --symbols-file")
    return tuple(dict.fromkeys(found))


def _dates(days: int | None, first: datetime | None, last: datetime | None) -> Dates:
    now = datetime.now(UTC)
    if (days is None) == (first is None) or (days is not None and last is not None):
        raise click.UsageError("expected either --days, or --from with or without --to")
    if days is not None:
        return last_days(days, now)
    assert first is not None  # noqa: S101 - looked at above
    ends = last.date() if last is not None else now.date() - timedelta(days=1)
    if first.date() > now.date():
        raise click.UsageError(f"--from {first.date()} is in the future; today is {now.date()} (UTC)")
    if ends < first.date():
        raise click.UsageError(f"--to {ends} is before --from {first.date()}")
    return Dates(first.date(), ends)


def _entry(config: Config, name: str | None, plugins: Mapping[str, HistoryPlugin]) -> HistoryEntry:
    """Return the source of this name, or the first. Raises ConfigError, which lists the sources."""
    usable = [entry for entry in config.history if entry.plugin in plugins]
    for entry in usable:
        if name in (None, entry.name):
            return entry
    names = (
        ", ".join(entry.name for entry in usable)
        or "none; install mdserver-dukascopy or add one to the config"
    )
    raise ConfigError([f"history: there is no source {name or 'to import from'}; available: {names}"])


def _dry_lines(summary: Summary) -> list[str]:
    return [
        f"{plan.symbol}: would fetch {len(plan.wanted):,} hours from {summary.source}; {plan.known:,} already there "
        f"({plan.known_empty:,} empty), {plan.closed:,} closed, {plan.before_start:,} before the start of history, "
        f"{plan.not_over:,} not over"
        for plan in (one.plan for one in summary.symbols.values())
    ]


plugin = CommandPlugin("import", SUMMARY, _command)
