"""``mdserver run delete``: delete what a bad feed or a wrong import wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

import click
import msgspec

from ..config import Config
from ..errors import Rejected
from ..plugin import CommandContext, CommandPlugin, Progress
from ..store.rows import MAX_TIME_US
from ..store.series import SeriesInfo, list_series
from ..store.upkeep.delete_rows import Deletion, Range, count_rows, delete_rows
from .day import DAY
from .maintenance import json_option, open_for_maintenance, symbol_option, table, to_us

__all__ = ["plugin"]

SUMMARY = "Delete what a bad feed or a wrong import wrote"
EXIT_NOT_DONE = 1


@click.command("delete", short_help=SUMMARY)
@click.option("--broker", required=True, metavar="NAME", help="The broker or history source that wrote it.")
@symbol_option
@click.option("--from", "first", type=DAY, metavar="DATE", help="First day, UTC.")
@click.option("--to", "last", type=DAY, metavar="DATE", help="Last day, UTC, inclusive.")
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@json_option
@click.pass_obj
def _command(
    context: CommandContext,
    broker: str,
    symbol: str | None,
    first: datetime | None,
    last: datetime | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Permanently delete ticks and trades with their candles and their entries in the import ledger.

    Each day of data is one transaction, which also corrects the metadata; after an interruption the same command
    continues. A running server goes on storing new records, and sequence numbers are not reused. Deleted hours can be
    imported again.
    """
    if first is not None and last is not None and last < first:
        raise click.UsageError("--to is before --from")
    end_us = to_us(last, days=1)
    what = Range(broker, symbol, to_us(first) or 0, MAX_TIME_US if end_us is None else end_us)
    found = context.run(_count, context.config, what)
    if dry_run or not found:
        _print(found, as_json, "would be deleted", what)
        return
    if not yes:
        _confirm(found)
    with context.progress("deleting", sum(one.rows for one in found)) as progress:
        done = context.run(_delete, context.config, what, progress)
    _print(done, as_json, "deleted", what)


def _confirm(found: Sequence[Deletion]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(
            "standard input is not a terminal, so nobody can confirm: --yes deletes without asking, --dry-run only "
            "prints what would be deleted"
        )
    click.echo(_table(found), err=True)
    rows = sum(one.rows for one in found)
    if not click.confirm(f"Permanently delete {rows:,} rows?", err=True):
        click.echo("nothing was deleted", err=True)
        raise click.exceptions.Exit(EXIT_NOT_DONE)


def _print(found: Sequence[Deletion], as_json: bool, done: str, what: Range) -> None:
    if as_json:
        click.echo(json.dumps({"done": done == "deleted", "series": msgspec.to_builtins(found)}))
    elif found:
        click.echo(f"{_table(found)}\n{sum(one.rows for one in found):,} rows {done}")
    else:
        click.echo(
            f"nothing is stored of {what.broker}{f' {what.symbol}' if what.symbol else ''} in that range"
        )


def _table(found: Sequence[Deletion]) -> str:
    rows = [(one.broker, one.symbol, one.type, one.rows, one.candles, one.hours) for one in found]
    return table(("BROKER", "SYMBOL", "TYPE", "ROWS", "CANDLES", "IMPORTED HOURS"), rows)


async def _count(config: Config, what: Range) -> list[Deletion]:
    async with open_for_maintenance(config) as database:
        _check_known(await database.run(list_series), what)
        return await count_rows(database, what)


def _check_known(series: Sequence[SeriesInfo], what: Range) -> None:
    """Raise Rejected for a broker or symbol of which there is no series at all: a misspelt one is not done."""
    of_broker = [one for one in series if one.broker == what.broker]
    if not of_broker:
        names = ", ".join(sorted({one.broker for one in series})) or "none"
        raise Rejected(f"nothing was ever stored of broker {what.broker!r}; there are: {names}")
    if what.symbol is not None and all(one.symbol != what.symbol for one in of_broker):
        names = ", ".join(sorted({one.symbol for one in of_broker})[:20])
        raise Rejected(f"nothing was ever stored of {what.broker} {what.symbol}; there are: {names}")


async def _delete(config: Config, what: Range, progress: Progress) -> list[Deletion]:
    async with open_for_maintenance(config) as database:
        return await delete_rows(database, what, advance=progress.advance)


plugin = CommandPlugin("delete", SUMMARY, _command)
