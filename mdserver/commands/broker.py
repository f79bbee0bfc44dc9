"""``mdserver run broker``: the brokers of the server that runs, and a restart of one of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
import trio

from ..control_socket import ask_server
from ..plugin import CommandContext, CommandPlugin
from .maintenance import json_option, table

__all__ = ["plugin"]

WAIT_S = 30.0


@click.group("broker")
def broker_() -> None:
    """Show the brokers of the running server, or restart one.

    The server is reached through a socket in its data folder, which only its own user may open.
    """


@broker_.command("list")
@json_option
@click.pass_obj
def list_(context: CommandContext, *, as_json: bool) -> None:
    """Show the brokers of the running server with their states and last errors."""
    found = _ask(context, {"do": "brokers"})
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [
        (state["broker"], state["state"], _time(state["since"]), state["active"], state["last_error"] or "-")
        for state in found["brokers"]
    ]
    click.echo(table(("broker", "state", "since", "feeds", "last error"), rows))


@broker_.command("restart")
@click.argument("name")
@json_option
@click.pass_obj
def restart(context: CommandContext, name: str, *, as_json: bool) -> None:
    """Restart the broker NAME: end its session, or its pause, or revive it where it has failed.

    Clients stay connected and subscribed. The exit code is 1 where the broker does not connect.
    """
    state = _ask(context, {"do": "restart-broker", "broker": name})
    if as_json:
        click.echo(json.dumps(state))
    elif state["state"] in ("live", "degraded"):
        click.echo(f"{name}: {state['state']}")
    else:
        click.echo(f"{name}: {state['state']}: {state['last_error'] or 'not connected yet'}", err=True)
    if state["state"] not in ("live", "degraded"):
        raise click.exceptions.Exit(1)


def _ask(context: CommandContext, request: dict[str, Any]) -> Any:
    folder = context.config.data_dir

    async def ask() -> Any:
        return await ask_server(folder, request, wait_s=WAIT_S)

    return trio.run(ask)


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%SZ}"


plugin = CommandPlugin("broker", "Show the brokers of the running server, or restart one", broker_)
