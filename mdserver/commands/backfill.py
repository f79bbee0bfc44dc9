"""``mdserver run backfill``: fill known gaps from the venues' own history, now."""

from __future__ import annotations

import json
from typing import Any

import click

from ..backfill import GapFiller, gaps_to_fill, summary
from ..control_socket import NoServer, ask_server
from ..plugin import BrokerHistory, CommandContext, CommandPlugin
from ..store.store import Store
from .maintenance import json_option, open_for_maintenance, symbol_option

__all__ = ["plugin"]

WAIT_S = 86_400.0


@click.command("backfill")
@click.option("--broker", metavar="NAME", help="Only gaps of this broker.")
@symbol_option
@click.option(
    "--retry-permanent",
    is_flag=True,
    help="Also try again the gaps that their venue refused, when a key or an archive is back.",
)
@json_option
@click.pass_obj
def backfill(
    context: CommandContext, broker: str | None, symbol: str | None, *, retry_permanent: bool, as_json: bool
) -> None:
    """Fill known gaps from the venues' own history, now instead of at the server's leisure.

    A running server does the work, and stops when this command is interrupted; without one the command does it itself.
    What is stored is not stored twice, so an interrupted command can be run again. The exit code is 1 where a gap stays
    open.
    """
    result = context.run(_run, context, broker, symbol, retry_permanent)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result)
    if result["open"]:
        raise click.exceptions.Exit(1)


async def _run(
    context: CommandContext,
    broker: str | None,
    symbol: str | None,
    retry_permanent: bool,
) -> dict[str, Any]:
    request = {"do": "backfill", "broker": broker, "symbol": symbol, "retry_permanent": retry_permanent}
    try:
        result: dict[str, Any] = await ask_server(context.config.data_dir, request, wait_s=WAIT_S)
    except NoServer:
        return await _without_server(context, broker, symbol, retry_permanent=retry_permanent)
    return result


async def _without_server(
    context: CommandContext, broker: str | None, symbol: str | None, *, retry_permanent: bool
) -> dict[str, Any]:
    entries = {entry.name: entry for entry in context.config.brokers if entry.enabled}
    if broker is not None and broker not in entries:
        known = ", ".join(entries) or "none"
        raise click.BadParameter(
            f'found "{broker}", expected a broker of the config: {known}', param_hint="--broker"
        )
    made: dict[str, Any] = {}

    def history_of(name: str) -> BrokerHistory | None:
        if name not in made:
            entry = entries.get(name)
            if entry is None or entry.plugin not in context.brokers:
                raise LookupError(f"the config has no broker {name} that can be used")
            made[name] = context.brokers[entry.plugin].factory(entry.settings)
        found = made[name]
        return found if isinstance(found, BrokerHistory) else None

    async with open_for_maintenance(context.config) as database:
        store = Store(database)
        gaps = await gaps_to_fill(store, broker, symbol, retry_permanent=retry_permanent)
        filler = GapFiller(store, history_of, log=context.log)
        return summary([await filler.fill(gap) for gap in gaps])


def _print(result: dict[str, Any]) -> None:
    whys: dict[tuple[str, str, str], int] = {}
    for gap in result["gaps"]:
        if gap["why"]:
            key = gap["broker"], gap["state"], gap["why"]
            whys[key] = whys.get(key, 0) + 1
    for (broker, state, why), count in whys.items():
        click.echo(f"{broker}: {count} {state}: {why}", err=True)
    click.echo(
        f"gaps filled {result['filled']}, permanent {result['permanent']}, still open {result['open']}; "
        f"records added {result['records']}" + (f", candles {result['candles']}" if result["candles"] else "")
    )


plugin = CommandPlugin("backfill", "Fill known gaps from the venues' own history", backfill)
