"""``mdserver run lake push | pull | status | verify``: options, and the steps of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import click

from mdserver.errors import Rejected
from mdserver.model import PushedDay
from mdserver.plugin import CommandContext, CommandDatabase, CommandPlugin

from .bucket import Bucket, Denied, open_bucket
from .contents import UNLISTED, list_or_none, places_to_try
from .interruption import interruptible
from .layout import Kind, Place
from .options import as_json as json_option
from .options import dry_run as dry_run_option
from .options import selecting
from .predecessor import FOLDER, part_of
from .pull import Puller
from .pull_json import pull_parts
from .push import plan_push, push
from .selection import Report, Selection
from .status import Month, months_of, status_lines
from .verify import verify

__all__ = ["plugin"]

SUMMARY = "Push ticks, trades and candles into the data lake, pull them back, and look after it"

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

STATEMENT_S = 3_600.0
"""How long one statement may take: a month is one transaction, and a slow disk is no reason to give up."""


@click.group("lake", short_help=SUMMARY)
def lake() -> None:
    """Keep ticks, trades and candles as Parquet files in a bucket or folder, which the config names as lake.url.

    Other programs read them without the server: DuckDB, polars, pandas.
    """


@lake.command("push")
@selecting
@dry_run_option
@json_option
@click.pass_obj
def push_command(
    context: CommandContext,
    /,
    *,
    selection: Selection,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Push closed days into the lake: each once, and again when it was revised.

    Each object is read back and compared before it is noted, so an interrupted push is continued by the same command.
    The exit code is 0 if nothing failed.
    """
    report = Report("pushed")
    _run(context, report, partial(_push, context, selection, report, dry_run=dry_run), as_json=as_json)


async def _push(context: CommandContext, selection: Selection, report: Report, *, dry_run: bool) -> None:
    bucket = open_bucket(context.config.lake)
    async with context.open_database(write=not dry_run, statement_timeout_s=STATEMENT_S) as database:
        await _check_series(database, selection)
        now_us = time.time_ns() // 1_000
        plan = plan_push(database, bucket.address, selection, report, now_us=now_us, write=not dry_run)
        tasks = [task async for task in plan]
        if dry_run:
            report.planned = [task.name for task in tasks]
        else:
            with context.progress("pushing days", len(tasks)) as progress:
                report.begun = True
                await push(database, bucket, tasks, report, progress)


async def _check_series(database: CommandDatabase, selection: Selection) -> None:
    """Raise Rejected for a symbol or broker of which nothing is stored: a misspelt one is not done."""
    stored = await database.series()
    for symbol in selection.symbols or (None,):
        if (symbol or selection.broker) and not any(
            symbol in (None, one.symbol) and selection.broker in (None, one.broker) for one in stored
        ):
            what = " ".join(filter(None, (selection.broker, symbol)))
            names = ", ".join(sorted({f"{one.broker} {one.symbol}" for one in stored})[:20]) or "nothing"
            raise Rejected(f"nothing is stored of {what}; there is: {names}")


@lake.command("pull")
@selecting
@click.option("--replace", is_flag=True, help="Load also days that are stored, as the lake has them.")
@click.option(
    "--layout",
    type=click.Choice(["parquet", "json"]),
    default="parquet",
    show_default=True,
    help="json: ticks/SYMBOL/YYYY/MM/DD/part-*.json of an older program; --broker names the series to load into.",
)
@dry_run_option
@json_option
@click.pass_obj
def pull_command(
    context: CommandContext,
    /,
    *,
    selection: Selection,
    replace: bool,
    layout: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pull days from the lake into the database, with their candles; what is stored stays as it is.

    Imported ticks come back as they were imported, so that a later import skips them. An interrupted pull is continued
    by the same command. The exit code is 0 if nothing failed.
    """
    report = Report("pulled")
    if layout == "json":
        if selection.broker is None:
            raise click.UsageError(
                "--layout json needs --broker: the name under which the ticks are to be stored"
            )
        work = partial(_pull_json, context, selection, selection.broker, report, dry_run=dry_run)
    else:
        work = partial(_pull, context, selection, report, replace=replace, dry_run=dry_run)
    _run(context, report, work, as_json=as_json)


async def _pull(
    context: CommandContext, selection: Selection, report: Report, *, replace: bool, dry_run: bool
) -> None:
    bucket = open_bucket(context.config.lake)
    async with context.open_database(write=not dry_run, statement_timeout_s=STATEMENT_S) as database:
        listed = await list_or_none(bucket, selection, report)
        found = listed if listed is not None else await _unlisted(context, database, bucket, selection)
        records = {(one.broker, one.symbol, one.type, one.day) for one in found if one.kind != "candle"}
        wanted = [one for one in found if one.kind != "candle" or (*one[1:4], one.day) not in records]
        if listed == {} and (selection.symbols or selection.broker):
            raise Rejected(f"the lake {bucket.address} has nothing of this symbol, broker and range")
        with context.progress("pulling days", len(wanted)) as progress:
            puller = Puller(database, bucket, report, progress, replace, may_lack=listed is None)
            await puller.find_known()
            missing = [place for place in wanted if not await puller.is_there(place)]
            report.known = len(wanted) - len(missing)
            progress.advance(report.known)
            _warn_of_retention(context, missing, report)
            if dry_run:
                report.planned = [f"{one.broker} {one.symbol} {one.kind} {one.day}" for one in missing]
            else:
                report.begun = True
                await puller.run({place: found[place] for place in missing})


async def _unlisted(
    context: CommandContext, database: CommandDatabase, bucket: Bucket, selection: Selection
) -> dict[Place, int]:
    """Return what to ask for where listing is not permitted: what the ledger knows, and each day of the range."""
    known = {place: one.size_bytes for place, one in (await _known(database, bucket, selection)).items()}
    config = context.config
    brokers = [*(entry.name for entry in config.brokers), *(entry.name for entry in config.history)]
    kinds: tuple[Kind, ...] = ("tick", "trade")
    tried = places_to_try(selection, brokers, kinds, now_us=time.time_ns() // 1_000)
    if tried is None and not known:
        raise Denied(f"{UNLISTED}: name --symbol and --from")
    return {**dict.fromkeys(tried or (), 0), **known}


def _warn_of_retention(context: CommandContext, places: list[Place], report: Report) -> None:
    keep = context.config.database.retention_days
    if keep and places:
        oldest = datetime.now(UTC).date() - timedelta(days=keep)
        if any(place.day < oldest for place in places):
            report.notice(
                f"some of these days are older than database.retention_days ({keep}): the server will drop their "
                "records again"
            )


async def _pull_json(
    context: CommandContext, selection: Selection, broker: str, report: Report, *, dry_run: bool
) -> None:
    bucket = open_bucket(context.config.lake)
    parts = [part for one in await bucket.objects(FOLDER) if (part := part_of(one.key)) is not None]
    chosen = [
        part
        for part in parts
        if selection.has_day(part.day) and (not selection.symbols or part.symbol in selection.symbols)
    ]
    if not chosen:
        raise Rejected(
            f"the lake {bucket.address} has no {FOLDER}SYMBOL/YYYY/MM/DD/part-*.json of this selection"
        )
    days = sorted({(part.symbol, part.day) for part in chosen})
    if dry_run:
        report.planned = [f"{broker} {symbol} tick {day}" for symbol, day in days]
        return
    async with context.open_database(write=True, statement_timeout_s=STATEMENT_S) as database:
        with context.progress("pulling days", len(days)) as progress:
            report.begun = True
            await pull_parts(database, bucket, broker, chosen, report, progress)


@lake.command("status")
@selecting
@json_option
@click.pass_obj
def status_command(
    context: CommandContext,
    /,
    *,
    selection: Selection,
    as_json: bool,
) -> None:
    """Show what the lake holds by broker, symbol and month: days, rows, bytes, and the open days that are missing."""
    months, notices = context.run(_status, context, selection)
    if as_json:
        click.echo(json.dumps({"months": [month.as_json() for month in months], "notices": notices}))
        return
    for notice in notices:
        click.echo(notice, err=True)
    click.echo("\n".join(status_lines(months)) if months else "the lake has nothing of this selection")


async def _status(context: CommandContext, selection: Selection) -> tuple[list[Month], list[str]]:
    bucket = open_bucket(context.config.lake)
    report = Report("listed")
    async with context.open_database(statement_timeout_s=STATEMENT_S) as database:
        known = await _known(database, bucket, selection)
    sizes = await list_or_none(bucket, selection, report)
    if sizes is None:
        sizes = {place: one.size_bytes for place, one in known.items()}
    return months_of(sizes, known), report.notices


@lake.command("verify")
@selecting
@json_option
@click.pass_obj
def verify_command(
    context: CommandContext,
    /,
    *,
    selection: Selection,
    as_json: bool,
) -> None:
    """Read everything in the lake back and compare it with its checksums and with what was pushed.

    What is missing or damaged is pushed again by the next push, as long as the database has it. The exit code is 1 if
    anything is wrong.
    """
    report = Report("verified")
    _run(context, report, partial(_verify, context, selection, report), as_json=as_json)


async def _verify(context: CommandContext, selection: Selection, report: Report) -> None:
    bucket = open_bucket(context.config.lake)
    async with context.open_database(write=True, statement_timeout_s=STATEMENT_S) as database:
        known = await _known(database, bucket, selection)
        places = await list_or_none(bucket, selection, report) or {}
        with context.progress("verifying", len({*known, *places})) as progress:
            report.begun = True
            await verify(database, bucket, known, places, report, progress)


async def _known(
    database: CommandDatabase, bucket: Bucket, selection: Selection
) -> Mapping[Place, PushedDay]:
    return {
        place: one
        for one in await database.pushed_days(bucket.address)
        if selection.has(place := Place.of(one))
    }


def _run(
    context: CommandContext, report: Report, work: Callable[[], Awaitable[None]], *, as_json: bool
) -> None:
    """Do the work of a command, print what was done, and exit accordingly."""
    began = time.monotonic()
    context.run(interruptible, context, report, work)
    report.seconds = round(time.monotonic() - began, 3)
    click.echo(json.dumps(report.as_json()) if as_json else "\n".join(report.lines()))
    if report.interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if not report.ok:
        raise click.exceptions.Exit(EXIT_FAILED)


plugin = CommandPlugin("lake", SUMMARY, lake)
