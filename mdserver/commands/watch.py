"""``mdserver run watch``: print the records that a running server streams."""

from __future__ import annotations

import json

import click

from ..errors import BadMessage, ConfigError, Rejected
from ..kinds import BY_NAME
from ..net import open_websocket
from ..plugin import CommandContext, CommandPlugin
from ..symbols import canonical_all

__all__ = ["plugin", "watch"]

SUMMARY = "Print the live records of a running server"


@click.command("watch", short_help=SUMMARY)
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--type", "types", type=click.Choice(tuple(BY_NAME)), multiple=True, help="Default: tick.")
@click.option("--url", metavar="URL", help="The server's address; default: from the config.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many records.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as received: JSON, one per line.")
@click.pass_obj
def _command(
    context: CommandContext,
    symbols: tuple[str, ...],
    types: tuple[str, ...],
    url: str | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Print the live records of a running server, such as: mdserver run watch EURUSD --type trade

    If the server refuses a symbol, the command ends with exit code 1.
    """
    try:
        wanted = canonical_all(symbols)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    context.run(watch, url or _address(context), wanted, types or ("tick",), count, as_json)


def _address(context: CommandContext) -> str:
    server = context.config.server
    if server.port == 0:
        raise ConfigError(["server.port is 0, so the port is not known: use --url"])
    everywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be replaced, not bound
    host = everywhere.get(server.hosts[0], server.hosts[0])
    scheme = "ws" if server.tls is None else "wss"
    return f"{scheme}://[{host}]:{server.port}/" if ":" in host else f"{scheme}://{host}:{server.port}/"


async def watch(
    url: str, symbols: tuple[str, ...], types: tuple[str, ...], count: int | None, as_json: bool
) -> None:
    """Subscribe and print ``count`` records; None: until cancelled.

    Raises Unavailable if the server cannot be reached or ends the connection, BadMessage for an answer outside of our
    protocol, Rejected if the server refuses anything, even one symbol of several.
    """
    left = count
    async with open_websocket(url) as websocket:
        await websocket.send(json.dumps({"action": "subscribe", "symbols": symbols, "types": types}))
        while True:
            for message in await websocket.receive():
                record = _decode(url, message)
                if record.get("type") not in BY_NAME:
                    _check_refusals(record)
                    continue
                click.echo(message.decode() if as_json else _line(record))
                if left is not None:
                    left -= 1
                    if left == 0:
                        return


def _decode(url: str, message: bytes) -> dict[str, object]:
    try:
        found = json.loads(message)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadMessage(
            f"{url}: found a message that is not a JSON object; expected an mdserver at this address"
        )
    return found


def _check_refusals(message: dict[str, object]) -> None:
    """Raise Rejected if the server refuses anything; ignore acknowledgements and status messages."""
    results = message.get("results")
    refused = [
        f"error {one.get('code')}: {one.get('message')}"
        for one in (message, *(results if isinstance(results, list) else []))
        if isinstance(one, dict) and "error" in (one.get("type"), one.get("status"))
    ]
    if refused:
        raise Rejected("; ".join(refused))


def _line(record: dict[str, object]) -> str:
    """Return ``mock EURUSD tick 12: time=1710918000.5 bid=1.087 ask=1.0871``."""
    head = [str(record.pop(key, "?")) for key in ("broker", "symbol", "type", "seq")]
    values = " ".join(f"{key}={value}" for key, value in record.items() if value is not None)
    return f"{' '.join(head)}: {values}"


plugin = CommandPlugin("watch", SUMMARY, _command)
