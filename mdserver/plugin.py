"""The interfaces between the server and its plugins: types only.

A distribution registers a descriptor in an entry-point group; the server loads it at start.

* ``mdserver.brokers`` → :class:`BrokerPlugin`
* ``mdserver.history`` → :class:`HistoryPlugin`
* ``mdserver.commands`` → :class:`CommandPlugin`
* ``mdserver.lakes`` → :class:`LakePlugin`
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import attrs
import click
import structlog
import trio

from .command_database import CommandDatabase, StoredSeries, TickHour
from .config import Config
from .errors import BadMessage
from .lakes import LAKE_GROUP, Lake, LakePlugin
from .market_hours import Market
from .model import Feed, Instrument, Record, RecordType, TickColumns

__all__ = [
    "API_VERSION",
    "BROKER_GROUP",
    "COMMAND_GROUP",
    "HISTORY_GROUP",
    "LAKE_GROUP",
    "BookRenewal",
    "Broker",
    "BrokerHistory",
    "BrokerHost",
    "BrokerPlugin",
    "CommandContext",
    "CommandDatabase",
    "CommandPlugin",
    "Demand",
    "HistoryHost",
    "HistoryInstrument",
    "HistoryPlugin",
    "HistorySource",
    "Lake",
    "LakePlugin",
    "Progress",
    "RawHour",
    "StoredSeries",
    "TickHour",
]

T = TypeVar("T")

API_VERSION = 1
"""Increased when a change breaks existing plugins."""

BROKER_GROUP = "mdserver.brokers"
COMMAND_GROUP = "mdserver.commands"
HISTORY_GROUP = "mdserver.history"


class Demand(Protocol):
    """The feeds that clients and the config want from one broker: always the whole set, never single changes."""

    def current(self) -> frozenset[Feed]:
        """Return the feeds that are wanted now."""
        ...

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        """Return the wanted set as soon as it differs from ``known`` (at once if it already does)."""
        ...


class BrokerHost(Protocol):
    """The server's side of a broker. No call blocks or waits, except ``demand.wait_changed``."""

    @property
    def name(self) -> str:
        """The broker's name in the config, which clients use too."""
        ...

    @property
    def demand(self) -> Demand: ...

    @property
    def log(self) -> structlog.stdlib.BoundLogger: ...

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """Publish records, in the venue's order.

        ``received_us`` is the time at which their bytes were read from the socket, in Unix microseconds: one time for
        all records of one read (``WebSocket.received_us``). The default is the time of this call.

        The records are checked, numbered, journalled and sent on to clients before this returns. An impossible record
        is counted, logged at most once a minute, and skipped; the others go on. Records of feeds that are not, or no
        longer, wanted are only counted.
        """
        ...

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Report that the venue has accepted these feeds."""
        ...

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Report that the venue will not serve these feeds; their subscribers receive ``reason``."""
        ...

    def gap(self, cause: str, feeds: Iterable[Feed] | None = None, size: int | None = None) -> None:
        """Report that records of these feeds (None: of all) may be missing, although the session goes on.

        The gap begins after the last published record of each feed and ends with its next one, so publish all earlier
        records first. ``cause`` is one word for operators and metrics, such as ``disconnected``. ``size`` is the number
        of missing records if it is known (a jump of the venue's ids). The end of a session needs no such call.
        """
        ...

    def alive(self) -> None:
        """Report that the connection works although no record has arrived (a heartbeat)."""
        ...

    def discard(self, error: BadMessage, *, asked_again: bool = False) -> None:
        """Count a message that cannot be decoded: each subscribed feed gets a gap. Publish earlier ones first.

        ``asked_again``: the broker asks the venue for the same records again, such as the page behind a cursor that it
        keeps, so none is missing: no gap. Such a message is no sign of life either, so a venue that sends nothing else
        is silent after the plugin's ``silence_s``.
        """
        ...

    def ignored(self, what: str) -> None:
        """Count a well-formed message of a kind that the plugin does not use."""
        ...

    def instruments(self, table: Iterable[Instrument]) -> None:
        """Set the venue's complete list of instruments; from then on the server refuses an unknown symbol at once."""
        ...


class Broker(Protocol):
    """A source of live data."""

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session: connect, subscribe to ``host.demand``, publish; return or raise when it ends.

        Call ``task_status.started()`` once connected. Raise :class:`~mdserver.errors.Unavailable` if trying again may
        help: the server then starts another session, with backoff. Raise :class:`~mdserver.errors.Rejected` if it
        cannot help: the broker has then failed for good.
        """
        ...


@runtime_checkable
class BookRenewal(Protocol):
    """An optional part of a :class:`Broker` with full order books: the venue sends one anew."""

    def renew_books(self, symbols: Collection[str]) -> None:
        """Have the next records of these full books be snapshots. Called during a session; must not block.

        The server lacks changes of theirs, for instance because nobody was subscribed for a moment. It drops all
        further changes until a snapshot comes.
        """
        ...


@runtime_checkable
class BrokerHistory(Protocol):
    """An optional part of a :class:`Broker`: past records of its venue, so that the server can fill gaps."""

    def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncGenerator[Sequence[Record], None]:
        """Yield batches of a feed's records from ``from_us`` to ``to_us``, both inclusive, oldest first.

        Give the records the venue's times and ids, exactly as the live feed does. The server requests one batch after
        the other, may wait long in between, and closes the generator; it drops records that it has already or that are
        outside the interval. A session may run at the same time: both together must stay within the venue's limits.
        Raise :class:`~mdserver.errors.Unavailable` if the records may be available later, and
        :class:`~mdserver.errors.Rejected` if they never will be: the gap is then permanent. A refusal with HTTP 401,
        403 or 407 is of the credentials: the gap stays open.
        """
        ...


@attrs.frozen
class BrokerPlugin:
    """Describes a broker plugin.

    ``config`` is a frozen attrs class, made from the keys of the broker's entry in ``config.yaml`` other than the
    common ones (``name``, ``plugin``, ``enabled``, ``symbols``, ``types``). ``factory`` makes the broker from that
    object. ``candles_from`` is the type of records from which this venue's candles are computed: trades on an exchange,
    ticks on a dealer's market. ``silence_s``: a session is restarted if it gives neither records nor heartbeats for
    this many seconds although feeds are wanted; None switches that off. ``synthetic``: the prices are made up, so they
    are never combined with those of another source.
    """

    name: str
    summary: str
    config: type
    factory: Callable[[Any], Broker]
    types: tuple[RecordType, ...] = ("tick",)
    candles_from: RecordType = "tick"
    silence_s: float | None = 90.0
    synthetic: bool = False
    api_version: int = API_VERSION


@attrs.frozen
class HistoryInstrument:
    """A history source's description of a symbol.

    ``start_us`` is the first hour with ticks, in Unix microseconds; None if unknown. ``market`` names the hours of
    trading.
    """

    symbol: str
    venue_symbol: str
    market: Market
    start_us: int | None


@attrs.frozen
class RawHour:
    """One hour of ticks as the source sent it, not decoded.

    ``service`` names the format, ``origin`` the URL or file. ``hour_us`` is the hour's start in Unix microseconds.
    ``kind`` is ``data``, ``empty`` (the source reports that there was no tick) or ``missing`` (it answers that it does
    not have this hour). The ledger keeps a ``missing`` hour as *denied* and each import requests it again, because a
    faulty server may deny hours that it has; if every hour is ``missing``, the symbol is wrong. ``settled`` is False if
    the answer is not final: data of a recent hour may still be published, or a local folder lacks the file. ``cached``:
    the body is from the local cache.
    """

    symbol: str
    hour_us: int
    service: str
    origin: str
    kind: Literal["data", "empty", "missing"]
    body: bytes = attrs.field(repr=lambda body: f"<{len(body)} bytes>")
    settled: bool = True
    cached: bool = False

    def checksum(self) -> str:
        """Return the SHA-256 of the body in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()


class HistorySource(Protocol):
    """A source of recorded ticks, by symbol and hour. It may be used by many tasks at once."""

    def instrument(self, symbol: str) -> HistoryInstrument:
        """Return the description of a canonical symbol. Raises Rejected, with similar symbols, for an unknown one."""
        ...

    async def fetch(self, symbol: str, hour_us: int, *, fresh: bool = False) -> RawHour:
        """Return the ticks of the hour that begins at ``hour_us``; ``fresh`` bypasses the local cache.

        Waits for the source's rate limit and repeats requests that may succeed later, a bounded number of times. Raises
        Unavailable (no answer, a block page, an hour not published yet), Rejected (an unknown symbol, a refusal by the
        remote side) or BadMessage (the same damaged file each time). Never returns ``empty`` because of an error.
        """
        ...

    def decode(self, raw: RawHour) -> TickColumns:
        """Return the ticks of a fetched hour; called in a worker thread.

        Raises BadMessage, with the address of the file, if the format does not allow the content.
        """
        ...


@attrs.frozen
class HistoryHost:
    """The server's side of a history source.

    ``cache_dir``: the folder in which raw files are kept, so that they are not fetched again (None: no cache).
    ``source_dir``: the folder from which hours are read, in the source's own layout, in place of the network.
    ``notice`` shows the operator a message, such as a switch to another service.
    """

    log: structlog.stdlib.BoundLogger
    notice: Callable[[str], None]
    cache_dir: Path | None = None
    source_dir: Path | None = None


@attrs.frozen
class HistoryPlugin:
    """Describes a source of recorded ticks for ``mdserver run import``.

    ``config`` is a frozen attrs class, as for a broker. ``factory`` opens the source with that object and
    closes its connections at the end of the block.
    """

    name: str
    summary: str
    config: type
    factory: Callable[[Any, HistoryHost], AbstractAsyncContextManager[HistorySource]]
    candles_from: RecordType = "tick"
    api_version: int = API_VERSION


class Progress(Protocol):
    """The progress of a command, on standard error: a bar on a terminal, otherwise a line every few seconds."""

    def advance(self, count: float = 1.0) -> None:
        """Add ``count`` to the work that is done."""
        ...

    def notice(self, text: str) -> None:
        """Show the operator a message, above the bar."""
        ...


class CommandContext(Protocol):
    """One invocation of ``mdserver``; a command gets it as ``ctx.obj``."""

    @property
    def config(self) -> Config:
        """The checked config, read at first use. Raises :class:`~mdserver.errors.ConfigError`."""
        ...

    @property
    def log(self) -> structlog.stdlib.BoundLogger: ...

    @property
    def brokers(self) -> Mapping[str, BrokerPlugin]:
        """The usable broker plugins, by name."""
        ...

    @property
    def history(self) -> Mapping[str, HistoryPlugin]:
        """The usable history plugins, by name."""
        ...

    def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``work(*args)`` in trio to its end and return its result; its exceptions propagate."""
        ...

    def progress(self, label: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Show the progress of the block, out of ``total`` if it is given."""
        ...

    def open_database(
        self, *, write: bool = False, statement_timeout_s: float = 0.0
    ) -> AbstractAsyncContextManager[CommandDatabase]:
        """Open the configured database, read-only unless ``write``; it may be the one that a running daemon uses.

        ``statement_timeout_s`` bounds each statement; 0: no bound. Raises
        :class:`~mdserver.errors.StoreUnavailable` if the database does not answer and
        :class:`~mdserver.errors.Rejected` if it refuses the connection.
        """
        ...


@attrs.frozen
class CommandPlugin:
    """Describes ``mdserver run NAME``: ``command`` is a click command whose ``ctx.obj`` is a :class:`CommandContext`.

    The option ``--config FILE`` is added to it and to its subcommands. If it raises an error of :mod:`mdserver.errors`,
    the message is printed and the exit code is 1 (2 for a ``ConfigError``).
    """

    name: str
    summary: str
    command: click.Command
    api_version: int = API_VERSION
