"""The composition root: builds the server from its config, runs it, and takes it down in the order of the data.

Stop brokers, close clients, flush what is journalled, close the database: each with a deadline, within
:data:`SHUTDOWN_S` in all. A core task that fails ends the server after the same steps.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import time_ns

import attrs
import structlog
import trio

from ..config import BrokerEntry, Config, DatabaseConfig
from ..data_folder_lock import lock_data_folder
from ..errors import StoreUnavailable
from ..feed.broker_host import Emit, Host
from ..feed.demand import BrokerDemand
from ..feed.supervisor import SupervisedBroker, Supervisor
from ..journal.journal import Journal, open_journal
from ..metrics import Metrics
from ..model import Feed, LastRecord, Topic
from ..plugin import BrokerPlugin
from ..store.connection.database import Database
from ..store.embedded.server import open_embedded
from ..store.live.journal_drain import JournalDrain
from ..store.open_database import open_database
from ..store.store import Store
from ..store.upkeep.retention import keep_partitions
from ..stream.publish import Publisher
from ..stream.router import Router
from ..web.api.dependencies import Dependencies, SourceInfo
from ..web.app import make_app
from ..web.server.tcp_server import open_listeners, serve_app
from ..web.stream.clients import Clients
from .interpreter import keep_memory_in_bounds

__all__ = ["SHUTDOWN_S", "serve"]

SHUTDOWN_S = 10.0
CLIENTS_CLOSE_S = 2.0
WRITER_DRAIN_S = 2.5
SPARE_FILES = 512
"""Descriptors besides those of the clients: journal, database, venues, HTTP."""
PARTITIONS_EVERY_S = 3600.0

_log = structlog.get_logger("mdserver")


@attrs.frozen
class _Storage:
    database: Database
    store: Store
    journal: Journal
    last_records: Mapping[Topic, LastRecord]


@asynccontextmanager
async def _open_storage(config: Config) -> AsyncIterator[_Storage | None]:
    """Open the database, the embedded one started if so configured, and the journal; None if nothing is stored."""
    settings = config.database
    if not settings.store:
        yield None
        return
    async with AsyncExitStack() as stack:
        url = settings.url
        if url == "embedded":
            url = await stack.enter_async_context(
                open_embedded(config.data_dir, binaries=settings.binaries, log=_log)
            )
        database = await stack.enter_async_context(
            open_database(
                url,
                retry_for_s=settings.connect_for_s,
                pooler=settings.pooler,
                migrate=settings.migrate,
                log=_log,
            )
        )
        store = Store(database)
        with open_journal(config.data_dir / "journal", max_bytes=config.journal.max_bytes) as journal:
            pending = await trio.to_thread.run_sync(journal.last_records)
            last_records = _merge(await store.last_records(), pending)
            beyond = {topic: LastRecord(seq, 0) for topic, seq in journal.floor.seqs.items()}
            yield _Storage(database, store, journal, _merge(last_records, beyond))


def _merge(one: Mapping[Topic, LastRecord], other: Mapping[Topic, LastRecord]) -> dict[Topic, LastRecord]:
    """Return where topics stand by two accounts of them: the higher number and the later time."""
    none = LastRecord(0, 0)
    return {
        topic: LastRecord(*map(max, one.get(topic, none), other.get(topic, none)))
        for topic in one.keys() | other.keys()
    }


async def _keep_partitions(database: Database, settings: DatabaseConfig) -> None:
    """Make partitions ahead of time and drop old ones, each hour; runs until cancelled."""
    while True:
        try:
            await keep_partitions(
                database,
                retention_days=settings.retention_days,
                compress_after_days=settings.compress_after_days,
            )
        except StoreUnavailable as error:
            _log.info("partitions are seen to later: the database is away", error=str(error))
        await trio.sleep(PARTITIONS_EVERY_S)


async def serve(
    config: Config,
    plugins: Mapping[str, BrokerPlugin],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until SIGINT, SIGTERM or SIGHUP, or until a core task fails.

    Args:
        config: The checked config.
        plugins: The broker plugins that loaded, by name.
        task_status: Started with the server's base URL once clients are served.

    Raises:
        DataFolderInUse: Another server owns the data folder.
        ConfigError: The address cannot be bound.
        StoreUnavailable: The database did not answer in time.
    """
    _allow_open_files(config.server.max_clients)
    with lock_data_folder(config.data_dir):
        server = _Server(config, plugins)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.watch_signals, nursery.cancel_scope)
                await server.run(task_status)
                nursery.cancel_scope.cancel()
        finally:
            server.last_resort.cancel()
    if server.failures:
        raise ExceptionGroup("core tasks failed", server.failures)


def _allow_open_files(clients: int) -> None:
    """Raise the soft limit of open files as far as the hard one allows, and say if it is too low for the clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + SPARE_FILES
    if soft == resource.RLIM_INFINITY:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if max(allowed, soft) < wanted:
        _log.warning(
            "the limit of open files is below server.max_clients: raise it (ulimit -Hn) or lower that",
            open_files=max(allowed, soft),
            max_clients=clients,
        )


class _Server:
    """What one run of the daemon shares between its parts."""

    def __init__(self, config: Config, plugins: Mapping[str, BrokerPlugin]) -> None:
        self.config = config
        self.plugins = plugins
        self.metrics = Metrics()
        self.router = Router(self.metrics, config.server.window_ms / 1000)
        self.stop = trio.Event()
        self.serving = False
        self.failures: list[Exception] = []
        self.emit: Publisher | None = None
        self.last_resort = threading.Timer(SHUTDOWN_S - 0.5, _end_now)

    async def watch_signals(self, everything: trio.CancelScope) -> None:
        """Stop on the first signal, end at once on the second."""
        stopping = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else nohup wants it ignored
            stopping.append(signal.SIGHUP)
        with trio.open_signal_receiver(*stopping) as signals:
            async for number in signals:
                if self.stop.is_set():
                    _log.warning("second signal: ends at once", signal=number)
                    os._exit(130)
                _log.info("stopping", signal=signal.Signals(number).name)
                self.stop.set()
                if not self.serving:
                    everything.cancel()

    async def run(self, task_status: trio.TaskStatus[str]) -> None:
        """Start all parts, serve until stopped, stop all parts."""
        address = self.config.server.host, self.config.server.port
        # An address that is taken is told before anything starts; until the server is ready connections are refused.
        for listener in await open_listeners(*address):
            await listener.aclose()
        async with _open_storage(self.config) as storage:
            listeners = await open_listeners(*address)
            writer = None if storage is None else self._make_writer(storage)
            supervisor = self._make_supervisor(storage)
            clients = Clients(self.config.server.max_clients, self.metrics)
            services = self._make_services(storage, supervisor, writer)
            app = make_app(services, supervisor, self.router, clients, self.config.server)
            web_stop = trio.Event()
            async with trio.open_nursery() as storing, trio.open_nursery() as web:
                if storage is not None and writer is not None:
                    sync_s = self.config.journal.sync_ms / 1000
                    self._start(storing, partial(storage.journal.sync_forever, sync_s))
                    self._start(storing, writer.run)
                    self._start(storing, partial(_keep_partitions, storage.database, self.config.database))
                if self.config.server.window_ms:
                    self._start(web, self.router.run)
                self._start(web, clients.keep)
                serve_web = partial(
                    serve_app,
                    app,
                    listeners,
                    self.metrics,
                    stop=web_stop,
                    grace_s=CLIENTS_CLOSE_S,
                    settings=self.config.server,
                )
                await web.start(partial(self._guarded_start, serve_web))
                async with trio.open_nursery() as brokers:
                    self._start(brokers, supervisor.run)
                    self._start(brokers, keep_memory_in_bounds)
                    self.serving = True
                    host, port = listeners[0].socket.getsockname()[:2]
                    task_status.started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
                    await self.stop.wait()
                    self._bound_the_rest()
                    brokers.cancel_scope.cancel()
                await self._wind_down(clients, web_stop, web, storing, writer)

    def _bound_the_rest(self) -> None:
        """From now on the process has :data:`SHUTDOWN_S`, whatever hangs: a plugin in a shield, a disk, a database.

        A thread, since the loop itself may be what hangs. What is journalled waits for the next start.
        """
        self.last_resort.daemon = True
        self.last_resort.start()

    async def _wind_down(
        self,
        clients: Clients,
        web_stop: trio.Event,
        web: trio.Nursery,
        storing: trio.Nursery,
        writer: JournalDrain | None,
    ) -> None:
        self.router.flush()
        clients.close_all()
        with trio.move_on_after(CLIENTS_CLOSE_S):
            await clients.gone()
        web_stop.set()
        web.cancel_scope.deadline = trio.current_time() + CLIENTS_CLOSE_S
        if writer is not None:
            with trio.move_on_after(WRITER_DRAIN_S) as drain:
                await writer.drain()
            if drain.cancelled_caught:
                _log.warning("not all is in the database: the rest waits in the journal")
        web.cancel_scope.cancel()
        storing.cancel_scope.cancel()

    # -- parts ---------------------------------------------------------------------------------------

    def _make_writer(self, storage: _Storage) -> JournalDrain:
        database = self.config.database
        return JournalDrain(
            storage.journal,
            storage.store,
            flush_s=database.flush_ms / 1000,
            flush_rows=database.flush_rows,
            metrics=self.metrics,
            log=_log,
        )

    def _make_supervisor(self, storage: _Storage | None) -> Supervisor:
        emit: Emit = self.router.publish
        if storage is not None:
            emit = self.emit = Publisher(storage.journal, self.router.publish, self.metrics)
        last_records = {} if storage is None else storage.last_records
        return Supervisor(
            self._make_broker(entry, emit, last_records) for entry in self.config.brokers if entry.enabled
        )

    def _make_broker(
        self, entry: BrokerEntry, emit: Emit, last_records: Mapping[Topic, LastRecord]
    ) -> SupervisedBroker:
        plugin = self.plugins[entry.plugin]
        types = entry.types or plugin.types
        demand = BrokerDemand(Feed(symbol, kind) for symbol in entry.symbols for kind in types)
        host = Host(
            entry.name,
            demand,
            emit=emit,
            announce=self.router.announce,
            last_records=last_records,
            metrics=self.metrics,
            log=_log,
        )
        return SupervisedBroker(plugin, partial(plugin.factory, entry.settings), demand, host, self.metrics)

    def _make_services(
        self, storage: _Storage | None, supervisor: Supervisor, writer: JournalDrain | None
    ) -> Dependencies:
        def ready() -> Sequence[str]:
            if self.stop.is_set():
                return ["the server is stopping"]
            # not why: that holds addresses, and is in the log
            whys = [] if writer is None or writer.away is None else ["the database is away"]
            refusal = None if self.emit is None else self.emit.refusal()
            return whys if refusal is None else [*whys, f"records are not stored: {refusal}"]

        return Dependencies(
            store=None if storage is None else storage.store,
            broker_states=supervisor.states,
            sources=self._sources,
            ready=ready,
            metrics=self.metrics,
            now_us=lambda: time_ns() // 1000,
            flush_s=self.config.database.flush_ms / 1000,
            cors_origins=self.config.server.cors_origins,
        )

    def _sources(self) -> list[SourceInfo]:
        """Return the sources of records in the order in which they are tried: brokers, then history."""
        sources = []
        for entry in self.config.brokers:
            if entry.enabled:
                plugin = self.plugins[entry.plugin]
                types = entry.types or plugin.types
                sources.append(
                    SourceInfo(entry.name, plugin.candles_from, entry.symbols, types, plugin.synthetic)
                )
        sources += [SourceInfo(source.name) for source in self.config.history]
        # what a first run made up stays made up when the config names other brokers
        named = {source.name for source in sources}
        made_up = [plugin.name for plugin in self.plugins.values() if plugin.synthetic]
        return sources + [SourceInfo(name, synthetic=True) for name in made_up if name not in named]

    # -- core tasks ----------------------------------------------------------------------------------

    def _start(self, nursery: trio.Nursery, run: Callable[[], Awaitable[None]]) -> None:
        nursery.start_soon(self._guarded, run)

    async def _guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a core task; its failure stops the server in order instead of tearing it down."""
        try:
            await run()
        except* Exception as group:  # noqa: BLE001 - kept, raised at the end of the run
            _log.exception("core task failed: the server stops", exc_info=group)
            self.failures.extend(group.exceptions)
            self.stop.set()

    async def _guarded_start(
        self, run: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[None]
    ) -> None:
        await self._guarded(partial(run, task_status=task_status))


def _end_now() -> None:
    _log.error("not stopped in time: ends now; what is not in the database waits in the journal")
    os._exit(1)
