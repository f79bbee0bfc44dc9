"""``mdserver run bus``: the processes that share a bus, who leads which broker, and what lies on the streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import trio

from ..bus.open_engine import import_engine
from ..bus.status import CLOCKS_APART_S, read_status
from ..config import BusConfig
from ..errors import MdserverError, Rejected, leaves
from ..plugin import CommandContext, CommandPlugin
from .maintenance import format_size, json_option, table

__all__ = ["plugin"]

WITHIN_S = 10.0


@click.group("bus")
def bus_() -> None:
    """Show what the processes on a bus do."""


@bus_.command("status")
@json_option
@click.pass_obj
def status(context: CommandContext, *, as_json: bool) -> None:
    """Show the processes on the bus, and the leader, lease and stream of each configured broker.

    It asks Redis itself, so it works on each machine that has the config. The exit code is 1 where a broker has no
    leader.
    """
    config = context.config
    if config.bus.url is None:
        raise Rejected(
            "found no bus.url in the config, expected the address of the bus that the processes share"
        )
    found = trio.run(_read, config.bus, [entry.name for entry in config.brokers if entry.enabled])
    for one in found["brokers"]:
        one["keep_bytes"] = config.bus.keep_bytes
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(
            table(
                ("process", "role", "host", "leads", "lag"),
                [_process(one) for one in found["processes"]],
            )
        )
        click.echo("")
        click.echo(
            table(
                ("broker", "leader", "state", "fence", "lease", "entries", "size"),
                [_broker(one) for one in found["brokers"]],
            )
        )
        for one in found["processes"]:
            if (sentence := _clock(one)) is not None:
                click.echo(f"\n{sentence}")
        for sentence in _named_differently(found["processes"]):
            click.echo(f"\n{sentence}")
    if any(one["leader"] is None for one in found["brokers"]):
        raise click.exceptions.Exit(1)


async def _read(bus: BusConfig, brokers: list[str]) -> Any:
    open_engine = import_engine()
    try:
        with trio.fail_after(WITHIN_S):
            async with open_engine(bus.url, name="mdserver-status", ca_file=bus.ca_file) as engine:
                return await read_status(engine, brokers)
    except BaseExceptionGroup as group:
        error = next(leaves(group))
        if isinstance(error, MdserverError):
            raise error from group
        raise


def _process(one: dict[str, Any]) -> tuple[str, ...]:
    if "error" in one:
        return one["process"], one["error"], "", "", ""
    lag = ", ".join(f"{broker} {lag:.3f} s" for broker, lag in one["lag"].items() if lag is not None)
    return (
        one["process"],
        one["role"],
        f"{one['host']} ({one['pid']})",
        ", ".join(one["leads"]) or "-",
        lag or "-",
    )


def _named_differently(processes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what is to be said where the processes' configs name different symbols of one broker."""
    said: dict[str, dict[str, str]] = {}
    for one in processes:
        for broker, named in one.get("named", {}).items():
            said.setdefault(broker, {})[named] = one["process"]
    for broker, processes_of in said.items():
        if len(processes_of) > 1:
            names = " and ".join(sorted(processes_of.values()))
            yield (
                f"The configs of {names} name different symbols or types of {broker}: its leader streams all of "
                "them, and no work is shared"
            )


def _clock(one: dict[str, Any]) -> str | None:
    """Return what is to be said of a process's clock; None: nothing."""
    ahead_s = one.get("clock_s")
    if ahead_s is None or abs(ahead_s) < CLOCKS_APART_S[0]:
        return None
    where = "ahead of" if ahead_s > 0 else "behind"
    return f"The clock of {one['process']} is {abs(ahead_s):.1f} s {where} that of Redis: set both by NTP"


def _broker(one: dict[str, Any]) -> tuple[str, ...]:
    left = one["lease_left_s"]
    return (
        one["broker"],
        one["leader"] or "nobody",
        one["state"] or "-",
        str(one["fence"] or "-"),
        "-" if left is None else f"{left:.1f} s",
        str(one["entries"]),
        f"{format_size(one['bytes'])} of {format_size(one['keep_bytes'])}",
    )


plugin = CommandPlugin("bus", "Show what the processes on a bus do, and who leads which broker", bus_)
