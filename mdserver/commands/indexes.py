"""``mdserver run indexes``: the secondary indexes of ticks and trades."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.tables.recreate_indexes import Report, recreate
from ..store.tables.secondary_indexes import SecondaryIndex, Status, drop_secondary, status
from .maintenance import format_size, json_option, open_for_maintenance, print_status, table

__all__ = ["plugin"]

SUMMARY = "Show, drop or recreate the secondary indexes of the tick tables"


@click.group("indexes", short_help=SUMMARY)
def _group() -> None:
    """Show, drop or recreate the secondary indexes of ticks and trades.

    The server creates none itself; these are your own. Dropping them makes a large import faster. Unique indexes and
    primary keys are never dropped.
    """


@_group.command("status")
@json_option
@click.pass_obj
def _status(context: CommandContext, as_json: bool) -> None:
    """Show which indexes exist, and which were dropped and not recreated yet."""

    async def work(config: Config) -> Status:
        async with open_for_maintenance(config) as database:
            return await status(database)

    found = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))
        return
    click.echo(f"rows {format_size(found.table_bytes)}, primary keys {format_size(found.primary_bytes)}")
    rows = [(one.table, one.name, format_size(one.size_bytes), _state(one)) for one in found.indexes]
    rows += [(one.table, one.name, format_size(one.size_bytes), "dropped") for one in found.dropped]
    if rows:
        click.echo(table(("TABLE", "INDEX", "SIZE", "STATE"), rows))
    else:
        click.echo("there are no secondary indexes")
    if found.dropped:
        click.echo("\n`mdserver run indexes recreate` builds the dropped ones again")


def _state(index: SecondaryIndex) -> str:
    state = "ready" if index.valid else "invalid: its creation was interrupted"
    return state if index.kept is None else f"{state}; never dropped: {index.kept}"


@_group.command("drop")
@json_option
@click.pass_obj
def _drop(context: CommandContext, as_json: bool) -> None:
    """Drop the secondary indexes; their definitions are kept for recreate."""

    async def work(config: Config) -> list[SecondaryIndex]:
        async with open_for_maintenance(config) as database:
            return await drop_secondary(database)

    dropped = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"dropped": msgspec.to_builtins(dropped)}))
        return
    for one in dropped:
        click.echo(f"dropped {one.name} of {one.table}, {format_size(one.size_bytes)}")
    click.echo(_gained(dropped))


def _gained(dropped: Sequence[SecondaryIndex]) -> str:
    if not dropped:
        return "there is nothing to drop"
    per_table = {name: sum(1 for one in dropped if one.table == name) for name in ("ticks", "trades")}
    fewer = ", ".join(f"{1 + n} to 1 for each row of {name}" for name, n in per_table.items() if n)
    freed = format_size(sum(one.size_bytes for one in dropped))
    return f"freed {freed}" + (f"; index entries to write decrease from {fewer}" if fewer else "")


@_group.command("recreate")
@json_option
@click.pass_obj
def _recreate(context: CommandContext, as_json: bool) -> None:
    """Build the dropped indexes again, then run ANALYZE. An interrupted run continues where it was stopped.

    Writers are not blocked, except with TimescaleDB, where live records wait in the journal meanwhile.
    """

    async def work(config: Config) -> Report:
        async with open_for_maintenance(config) as database:
            return await recreate(
                database, announce=lambda one: print_status(f"building {one.name} of {one.table} …")
            )

    began = time.monotonic()
    report = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report)))
        return
    for one in report.indexes:
        sizes = f"{format_size(one.size_bytes)} (was {format_size(one.before_bytes)})"
        made = one.lost or f"{one.seconds:.1f} s, {sizes}"
        click.echo(f"{'gave up' if one.lost else 'built'} {one.name} of {one.table}: {made}")
    if report.indexes:
        smaller = sum(one.before_bytes - one.size_bytes for one in report.indexes if not one.lost)
        gained = f", {format_size(smaller)} smaller than before" if smaller > 0 else ""
        click.echo(f"all indexes are in place again{gained}; {time.monotonic() - began:.1f} s with ANALYZE")
    else:
        click.echo("nothing was dropped: there is nothing to recreate")


plugin = CommandPlugin("indexes", SUMMARY, _group)
