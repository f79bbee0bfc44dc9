"""``mdserver run cleanup``: remove duplicates that other programs wrote."""

from __future__ import annotations

import json

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.upkeep.primary_keys import Cleaned, clean_up
from .maintenance import json_option, open_for_maintenance, print_status

__all__ = ["plugin"]

SUMMARY = "Remove duplicates that other programs wrote and rebuild lost primary keys"


@click.command("cleanup", short_help=SUMMARY)
@json_option
@click.pass_obj
def _command(context: CommandContext, as_json: bool) -> None:
    """Remove duplicates that other programs wrote, rebuild lost primary keys, and run ANALYZE.

    There can be no duplicates while the primary keys exist. If one was dropped, writers wait until it is rebuilt. In
    the mode direct-compress ticks have no primary key and get none.
    """

    async def work(config: Config) -> list[Cleaned]:
        async with open_for_maintenance(config) as database:
            return await clean_up(database, announce=print_status)

    done = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"tables": msgspec.to_builtins(done)}))
        return
    for one in done:
        candles = sum(series.candles for series in one.refreshed)
        made = ", rebuilt the primary key" if one.rebuilt else ""
        click.echo(f"{one.table}: removed {one.removed} rows{made}, rebuilt {candles} candles")
    if not done:
        click.echo("the primary keys exist, so there are no duplicates; ANALYZE is done")


plugin = CommandPlugin("cleanup", SUMMARY, _command)
