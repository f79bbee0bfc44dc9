"""The contracts between the server and its plugins: types only.

A distribution registers a descriptor under an entry-point group; the server loads it at start.

* ``mdserver.brokers`` → :class:`BrokerPlugin`
* ``mdserver.commands`` → :class:`CommandPlugin`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import attrs
import click
import structlog
import trio

from .errors import BadMessage
from .model import Feed, Instrument, Record, RecordType

__all__ = [
    "API_VERSION",
    "BROKER_GROUP",
    "COMMAND_GROUP",
    "Broker",
    "BrokerHost",
    "BrokerPlugin",
    "CommandPlugin",
    "Demand",
]

API_VERSION = 1
"""Goes up when a change breaks existing plugins."""

BROKER_GROUP = "mdserver.brokers"
COMMAND_GROUP = "mdserver.commands"


class Demand(Protocol):
    """What clients and the config want from one broker: a level, not a stream of edges."""

    def current(self) -> frozenset[Feed]:
        """Return the feeds wanted now."""
        ...

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        """Return the wanted set as soon as it differs from ``known`` (at once if it already does)."""
        ...


class BrokerHost(Protocol):
    """What a broker gets from the server. Nothing here blocks except ``demand.wait_changed``."""

    @property
    def name(self) -> str:
        """The broker's name in the config: the one that clients use."""
        ...

    @property
    def demand(self) -> Demand: ...

    @property
    def log(self) -> structlog.stdlib.BoundLogger: ...

    def publish(self, batch: Sequence[Record]) -> None:
        """Hand over records in the venue's order.

        They are checked, numbered, journalled and fanned out before this returns. A record with an
        impossible price is counted, logged once a minute and skipped; the others go on.
        """
        ...

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Say that the venue accepted these feeds."""
        ...

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Say that the venue will not serve these feeds; their subscribers are told ``reason``."""
        ...

    def alive(self) -> None:
        """Say that the connection is live though no record came (a heartbeat)."""
        ...

    def discard(self, error: BadMessage) -> None:
        """Count a message that could not be decoded, and log it once a minute."""
        ...

    def ignored(self, what: str) -> None:
        """Count a well-formed message of a kind that we do not use."""
        ...

    def instruments(self, table: Iterable[Instrument]) -> None:
        """Give the venue's complete instrument list; from then on an unknown symbol is refused at once."""
        ...


class Broker(Protocol):
    """A source of live data."""

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session: connect, subscribe to ``host.demand``, publish; return or raise when it ends.

        Call ``task_status.started()`` once connected. The server restarts sessions with backoff:
        raise :class:`~mdserver.errors.Unavailable` for what a retry may mend and
        :class:`~mdserver.errors.Rejected` for what it cannot.
        """
        ...


@attrs.frozen
class BrokerPlugin:
    """Describes a broker plugin.

    ``config`` is a frozen attrs class; the keys of the broker's entry in ``config.yaml`` other than the common
    ones (``name``, ``plugin``, ``enabled``, ``symbols``, ``types``) are structured into it. ``factory`` makes
    the broker from that object. ``candles_from`` names the record type from which charts of this venue are
    drawn: trades on an exchange, quotes on a dealer's market. ``silence_s``: a session that gives neither
    records nor heartbeats for that long though feeds are wanted is restarted; None switches that off.
    """

    name: str
    summary: str
    config: type
    factory: Callable[[Any], Broker]
    types: tuple[RecordType, ...] = ("tick",)
    candles_from: RecordType = "tick"
    silence_s: float | None = 90.0
    api_version: int = API_VERSION


@attrs.frozen
class CommandPlugin:
    """Describes ``mdserver run NAME``: ``command`` is a click command that gets the runtime as ``ctx.obj``."""

    name: str
    summary: str
    command: click.Command
    api_version: int = API_VERSION
