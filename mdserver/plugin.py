"""The contracts between the server and its plugins: types only.

A distribution registers a descriptor under an entry-point group; the server loads it at start.

* ``mdserver.brokers`` → :class:`BrokerPlugin`
* ``mdserver.history`` → :class:`HistoryPlugin`
* ``mdserver.commands`` → :class:`CommandPlugin`
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import attrs
import click
import structlog
import trio

from .config import Config
from .errors import BadMessage
from .market_hours import Market
from .model import Feed, Instrument, Record, RecordType, TickColumns

__all__ = [
    "API_VERSION",
    "BROKER_GROUP",
    "COMMAND_GROUP",
    "HISTORY_GROUP",
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
    "Progress",
    "RawHour",
    "StoredSeries",
]

T = TypeVar("T")

API_VERSION = 1
"""Goes up when a change breaks existing plugins."""

BROKER_GROUP = "mdserver.brokers"
COMMAND_GROUP = "mdserver.commands"
HISTORY_GROUP = "mdserver.history"


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

    def publish(self, batch: Sequence[Record], *, received_us: int | None = None) -> None:
        """Hand over records in the venue's order.

        ``received_us`` is when the socket had their bytes, in Unix microseconds: one time for what one read brought
        (``WebSocket.received_us``). Without it the time of this call counts.

        They are checked, numbered, journalled and fanned out before this returns. A record that cannot be true is
        counted, logged once a minute and skipped; the others go on. Records of feeds that are not wanted (any more)
        are counted only.
        """
        ...

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Say that the venue accepted these feeds."""
        ...

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Say that the venue will not serve these feeds; their subscribers are told ``reason``."""
        ...

    def gap(self, cause: str, feeds: Iterable[Feed] | None = None, size: int | None = None) -> None:
        """Say that records may be missing behind the last one of these feeds (None: of all) though the session goes on.

        ``cause`` is a word for people and metrics, such as ``disconnected``. The hole ends with the next record, so
        publish first what came before it. ``size`` is how many are missing, where that is known (a jump of the venue's
        ids). The end of a session needs no such call.
        """
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


@runtime_checkable
class BrokerHistory(Protocol):
    """What a :class:`Broker` may have besides: the records of its venue's past, so that gaps can be filled."""

    def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncGenerator[Sequence[Record], None]:
        """Yield the records of a feed between two times, both included, oldest first, in batches; an async generator.

        With the venue's times and ids, as the feed has them live. The server asks for one batch after the other, may
        wait long in between, and closes the generator; it drops what it has already and what lies outside. A session
        may run at the same time: stay within the venue's limits together. Raise
        :class:`~mdserver.errors.Unavailable` for what may be had later and :class:`~mdserver.errors.Rejected` for what
        cannot be had at all: then the gap is permanent.
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
    ``synthetic``: its prices are made up, so they are never joined or counted with another source's.
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
    """What a history source knows of a symbol.

    ``start_us`` is the first hour with ticks, None where that is unknown. ``market`` says when it is open.
    """

    symbol: str
    venue_symbol: str
    market: Market
    start_us: int | None


@attrs.frozen
class RawHour:
    """One hour of ticks as the source gave it, not decoded.

    ``service`` names the format, ``origin`` the URL or file. ``kind``: ``data``; ``empty``, where the source
    says that there was no tick; ``missing``, where it denies to have this hour: kept in the ledger as *denied* and
    asked again at each import, since a faulty server denies what it has (every hour ``missing`` means a wrong
    symbol). ``settled`` is False where the answer proves nothing for good: the hour is so recent that data may still
    come, or a local folder has no such file. ``cached``: it came from the local cache.
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
        """Return what is known of a canonical symbol; Rejected, naming similar ones, where nothing is."""
        ...

    async def fetch(self, symbol: str, hour_us: int, *, fresh: bool = False) -> RawHour:
        """Return the ticks of the hour that begins at ``hour_us``; ``fresh`` passes the local cache by.

        Waits for its turn and repeats what may be mended by that, a finite number of times. Raises Unavailable
        (no answer, a block page, the hour not published yet), Rejected (unknown symbol, refused by the remote
        side) or BadMessage (the same damaged file each time). No error is ever turned into ``empty``.
        """
        ...

    def decode(self, raw: RawHour) -> TickColumns:
        """Return the ticks of a fetched hour; called in a worker thread.

        Raises BadMessage with the address of the file for anything that the format does not allow.
        """
        ...


@attrs.frozen
class HistoryHost:
    """What a history source gets from the server.

    ``cache_dir``: raw files are kept there and not fetched again (None: no cache). ``source_dir``: hours are
    read from there, in the source's own layout, in place of the network. ``notice`` tells the operator
    something that he should know, such as a switch to another service.
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
    """How far a command is: a bar on a terminal, a plain line every few seconds elsewhere, on standard error."""

    def advance(self, count: float = 1.0) -> None:
        """Count what is done."""
        ...

    def notice(self, text: str) -> None:
        """Tell the operator something, above the bar."""
        ...


class StoredSeries(Protocol):
    """One (broker, symbol, record type) that is stored; times are None while it has no rows."""

    @property
    def broker(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def type(self) -> RecordType: ...
    @property
    def row_count(self) -> int: ...
    @property
    def earliest_us(self) -> int | None: ...
    @property
    def latest_us(self) -> int | None: ...


class CommandDatabase(Protocol):
    """The configured database, as a command sees it.

    Each call is one transaction in a worker thread. All raise :class:`~mdserver.errors.StoreUnavailable` while the
    database is away, and :class:`~mdserver.errors.Rejected`, with its words, for what it refuses. The views to query
    are in the reference: ``market_ticks``, ``market_trades``, ``forex_candles_1m`` … ``forex_candles_1d``.
    """

    @property
    def engine(self) -> Literal["plain", "timescaledb"]:
        """How ticks are kept: monthly partitions of PostgreSQL, or TimescaleDB's hypertables."""
        ...

    @property
    def server_version(self) -> int:
        """The server's version as libpq counts: 150018 is 15.18."""
        ...

    async def series(self, symbol: str | None = None) -> Sequence[StoredSeries]:
        """Return what is stored, of one symbol if given."""
        ...

    async def query(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement that reads and return its rows; ``%s`` and ``%(name)s`` stand for parameters.

        The transaction is read-only, also where the database is open for writing. All rows are held in memory.
        """
        ...

    async def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run a statement that writes, into tables of the command's own; return the number of rows it touched.

        Raises :class:`~mdserver.errors.Rejected` where the database was not opened for writing. The server's own
        tables are not for this: their candles, counters and numbers are kept by the server.
        """
        ...


class CommandContext(Protocol):
    """What a command gets as ``ctx.obj``: one invocation of ``mdserver``."""

    @property
    def config(self) -> Config:
        """The checked config, read when it is first asked for. Raises :class:`~mdserver.errors.ConfigError`."""
        ...

    @property
    def log(self) -> structlog.stdlib.BoundLogger: ...

    @property
    def brokers(self) -> Mapping[str, BrokerPlugin]:
        """The broker plugins that can be used, by name."""
        ...

    @property
    def history(self) -> Mapping[str, HistoryPlugin]:
        """The history plugins that can be used, by name."""
        ...

    def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``work(*args)`` in trio to its end and return its result; what it raises comes out."""
        ...

    def progress(self, label: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Show how far the block is, of ``total`` where that is known."""
        ...

    def open_database(
        self, *, write: bool = False, statement_timeout_s: float = 0.0
    ) -> AbstractAsyncContextManager[CommandDatabase]:
        """Open the configured database, read-only unless ``write``; beside a running daemon it is the daemon's.

        ``statement_timeout_s`` bounds each statement; 0: no bound. Raises
        :class:`~mdserver.errors.StoreUnavailable` if it stays away and :class:`~mdserver.errors.Rejected` if it
        refuses us.
        """
        ...


@attrs.frozen
class CommandPlugin:
    """Describes ``mdserver run NAME``: ``command`` is a click command whose ``ctx.obj`` is a :class:`CommandContext`.

    ``--config FILE`` is added to it and to its subcommands. What it raises of :mod:`mdserver.errors` is printed as a
    message, and the exit code is 1 (2 for a ``ConfigError``).
    """

    name: str
    summary: str
    command: click.Command
    api_version: int = API_VERSION
