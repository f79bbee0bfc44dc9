"""``mdserver run direct-compress``: whether TimescaleDB compresses ticks while they are imported."""

from __future__ import annotations

import json

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.tables.compressed_loading import DirectCompress, status, switch_off, switch_on
from .maintenance import json_option, open_for_maintenance, print_status

__all__ = ["plugin"]

SUMMARY = "Let TimescaleDB compress ticks during imports: faster, but without a primary key"


@click.group("direct-compress", short_help=SUMMARY)
def _group() -> None:
    """Switch on or off that TimescaleDB compresses ticks while they are imported.

    TimescaleDB does so only in a table without a unique key. While this is on, a plain index replaces the primary key
    of ticks; then only the import ledger and the numbers of live records keep a tick from being stored twice.
    """


@_group.command("status")
@json_option
@click.pass_obj
def _status(context: CommandContext, as_json: bool) -> None:
    """Show whether it is on, or why it cannot be on, and how many chunks are compressed."""

    async def work(config: Config) -> DirectCompress:
        async with open_for_maintenance(config) as database:
            return await status(database)

    found = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))
        return
    click.echo(f"direct compress is {'on' if found.on else 'off'}")
    if found.problem:
        click.echo(f"{'imports do not compress' if found.on else 'it cannot be on'}: {found.problem}")
    else:
        click.echo(f"compressed: {found.compressed_chunks} of {found.chunks} chunks of ticks")


@_group.command("on")
@json_option
@click.pass_obj
def _on(context: CommandContext, as_json: bool) -> None:
    """Replace the primary key of ticks by a plain index; from then on imports compress."""

    async def work(config: Config) -> bool:
        async with open_for_maintenance(config) as database:
            return await switch_on(database)

    changed = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"on": True, "changed": changed}))
    elif changed:
        click.echo(
            "direct compress is on: ticks have a plain index instead of their primary key\n"
            "`mdserver run check` finds duplicates; `mdserver run direct-compress off` restores the primary key"
        )
    else:
        click.echo("direct compress was on already")


@_group.command("off")
@json_option
@click.pass_obj
def _off(context: CommandContext, as_json: bool) -> None:
    """Restore the primary key of ticks; refused if several rows have the same key."""

    async def work(config: Config) -> bool:
        async with open_for_maintenance(config) as database:
            print_status("building the primary key of ticks …")
            return await switch_off(database)

    changed = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"on": False, "changed": changed}))
    elif changed:
        click.echo(
            "direct compress is off: ticks have their primary key again; compressed chunks stay compressed"
        )
    else:
        click.echo("direct compress was off already")


plugin = CommandPlugin("direct-compress", SUMMARY, _group)
