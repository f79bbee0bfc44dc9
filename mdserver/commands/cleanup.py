"""``mdserver run cleanup``: remove duplicates that other programs wrote."""

from __future__ import annotations

import json

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.upkeep.primary_keys import Cleaned, clean_up
from .maintenance import json_option, open_for_maintenance, say

__all__ = ["plugin"]

SUMMARY = "Remove duplicates that other programs wrote, rebuild the primary key"


@click.command("cleanup", short_help=SUMMARY)
@json_option
@click.pass_obj
def _command(context: CommandContext, as_json: bool) -> None:
    """Remove duplicates that other programs wrote, rebuild the primary key, analyze.

    There can be none while the primary keys are there. Where one was dropped, writers wait until it is back. In the
    mode direct-compress ticks have none and get none.
    """

    async def work(config: Config) -> list[Cleaned]:
        async with open_for_maintenance(config) as database:
            return await clean_up(database, announce=say)

    done = context.run(work, context.config)
    if as_json:
        click.echo(json.dumps({"tables": msgspec.to_builtins(done)}))
        return
    for one in done:
        candles = sum(series.candles for series in one.refreshed)
        made = ", made the primary key again" if one.rebuilt else ""
        click.echo(f"{one.table}: removed {one.removed} rows{made}, rebuilt {candles} candles")
    if not done:
        click.echo("the primary keys are there, so there is no duplicate; analyzed")


plugin = CommandPlugin("cleanup", SUMMARY, _command)
