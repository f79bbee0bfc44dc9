"""``mdserver run direct-compress``: whether TimescaleDB compresses ticks while they are imported."""

from __future__ import annotations

import json

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.tables.compressed_loading import DirectCompress, status, switch_off, switch_on
from .maintenance import json_option, open_for_maintenance, say

__all__ = ["plugin"]

SUMMARY = "Let TimescaleDB compress ticks while they are imported: no primary key, faster imports"


@click.group("direct-compress", short_help=SUMMARY)
def _group() -> None:
    """Let TimescaleDB compress ticks while they are imported, or not.

    TimescaleDB does so only where there is no unique key. While this is on, a plain index stands in for the primary
    key of ticks: the import ledger and the numbers of live records alone keep a tick from being stored twice.
    """


@_group.command("status")
@json_option
@click.pass_obj
def _status(context: CommandContext, as_json: bool) -> None:
    """Show whether it is on, or why it cannot be, and how many chunks are compressed."""

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
    """Replace the primary key of ticks by a plain index; imports compress from then on."""

    async def work(config: Config) -> bool:
        async with open_for_maintenance(config) as database:
            return await switch_on(database)

    changed = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"on": True, "changed": changed}))
    elif changed:
        click.echo(
            "direct compress is on: ticks have a plain index in the place of their primary key\n"
            "mdserver run check finds duplicates; mdserver run direct-compress off is the way back"
        )
    else:
        click.echo("direct compress was on already")


@_group.command("off")
@json_option
@click.pass_obj
def _off(context: CommandContext, as_json: bool) -> None:
    """Make the primary key of ticks again; refused if rows have the key of another."""

    async def work(config: Config) -> bool:
        async with open_for_maintenance(config) as database:
            say("making the primary key of ticks …")
            return await switch_off(database)

    changed = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"on": False, "changed": changed}))
    elif changed:
        click.echo("direct compress is off: ticks have their primary key again; what is compressed stays so")
    else:
        click.echo("direct compress was off already")


plugin = CommandPlugin("direct-compress", SUMMARY, _group)
