"""``mdserver watch SYMBOL…``, and ``mdserver run watch``, its older name: the live records of a running server."""

from __future__ import annotations

import sys

import click

from ..config import Config
from ..errors import ConfigError
from ..kinds import BY_NAME
from ..plugin import CommandContext, CommandPlugin
from ..symbols import canonical
from .watching.lines import Lines
from .watching.session import View, Wanted, watch

__all__ = ["plugin"]

SUMMARY = "Show the live records of a running server"
IN_TABLE = frozenset(("tick", "trade"))


@click.command("watch", short_help=SUMMARY)
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--type", "types", type=click.Choice(tuple(BY_NAME)), multiple=True, help="Default: tick.")
@click.option("--url", metavar="URL", help="The server's address; default: from the config.")
@click.option(
    "--key", metavar="KEY", envvar="MDSERVER_KEY", show_envvar=True, help="The key, if the server wants one."
)
@click.option("--count", type=click.IntRange(min=1), help="End after this many records.")
@click.option("--lines", is_flag=True, help="Print a line for each record, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as received: JSON, one per line.")
@click.pass_obj
def _command(
    context: CommandContext,
    symbols: tuple[str, ...],
    types: tuple[str, ...],
    url: str | None,
    key: str | None,
    count: int | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Show the live records of a running server, such as: mdserver watch binance:BTCUSDT EURUSD

    A symbol may name its broker. On a terminal the prices are a table; elsewhere each record is a line. If the server
    refuses a symbol, the command ends with exit code 1. A lost connection is made anew.
    """
    wanted = Wanted.of(_by_broker(symbols), types or ("tick",))
    address = _as_websocket(url) if url else _address(context.config)
    view: View = Lines(as_json=as_json, count=count)
    if not (lines or as_json or count) and IN_TABLE.issuperset(wanted.types) and _is_terminal():
        from .watching.table import Table  # imported here: rich is slow to import

        view = Table(address, trades="trade" in wanted.types)
    context.run(watch, address, wanted, view, key)


def _by_broker(symbols: tuple[str, ...]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for text in symbols:
        broker, colon, symbol = text.rpartition(":")
        if colon and not broker:
            raise click.UsageError(f"{text!r}: no broker before the colon; expected BROKER:SYMBOL or SYMBOL")
        try:
            found.setdefault(broker or None, []).append(canonical(symbol))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    return found


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _as_websocket(url: str) -> str:
    """Return the address, also of one that is written as for a browser."""
    return "ws" + url.removeprefix("http") if url.startswith(("http://", "https://")) else url


def _address(config: Config) -> str:
    server = config.server
    if server.port == 0:
        raise ConfigError(["server.port is 0, so the port is not known: use --url"])
    everywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be replaced, not bound
    host = everywhere.get(server.hosts[0], server.hosts[0])
    scheme = "ws" if server.tls is None else "wss"
    return f"{scheme}://[{host}]:{server.port}/" if ":" in host else f"{scheme}://{host}:{server.port}/"


plugin = CommandPlugin("watch", SUMMARY, _command)
