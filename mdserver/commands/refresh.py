"""``mdserver run refresh``: rebuild candles from ticks and trades."""

from __future__ import annotations

import json
from datetime import datetime

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.upkeep.rebuild_candles import Refreshed, refresh
from .day import DAY
from .maintenance import json_option, open_for_maintenance, print_status, symbol_option, table, to_us

__all__ = ["plugin"]

SUMMARY = "Rebuild candles from ticks and trades"


@click.command("refresh", short_help=SUMMARY)
@symbol_option
@click.option("--from", "first", type=DAY, metavar="DATE", help="First day, UTC.")
@click.option("--to", "last", type=DAY, metavar="DATE", help="Last day, UTC, inclusive.")
@json_option
@click.pass_obj
def _command(
    context: CommandContext, symbol: str | None, first: datetime | None, last: datetime | None, as_json: bool
) -> None:
    """Rebuild candles from ticks and trades. This is a repair: normally they are always up to date.

    Only what differs is written. Without dates the counts in the metadata are corrected too.
    """
    if first is not None and last is not None and last < first:
        raise click.UsageError("--to is before --from")
    done = context.run(_refresh, context.config, symbol, to_us(first), to_us(last, days=1))
    if as_json:
        click.echo(json.dumps({"series": msgspec.to_builtins(done)}))
        return
    if not done:
        click.echo("nothing is stored" if symbol is None else f"nothing is stored of {symbol}")
        return
    rows = [
        (one.broker, one.symbol, one.type, one.days, one.candles, "corrected" if one.metadata else "correct")
        for one in done
    ]
    click.echo(table(("BROKER", "SYMBOL", "TYPE", "DAYS", "CANDLES CHANGED", "METADATA"), rows))


async def _refresh(
    config: Config, symbol: str | None, first_us: int | None, end_us: int | None
) -> list[Refreshed]:
    async with open_for_maintenance(config) as database:
        return await refresh(
            database,
            symbol,
            first_us,
            end_us,
            announce=lambda series: print_status(f"comparing {series.broker} {series.symbol} …"),
        )


plugin = CommandPlugin("refresh", SUMMARY, _command)
