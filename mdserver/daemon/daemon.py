"""The composition root: makes the parts of the server from its config, runs them, and bounds their end.

The parts are in the order of the data flow. They are started from the last to the first and stopped from the first to
the last: the brokers end, the clients are closed, the journalled records are stored, the database is closed. Each step
has a deadline, and all of them together take at most :data:`SHUTDOWN_S`.
"""

from __future__ import annotations

import os
import resource
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
import trio

from ..config import Config, check_exposure
from ..data_folder_lock import lock_data_folder
from ..errors import ConfigError
from ..feed.supervisor import Supervisor
from ..metrics import Metrics
from ..model import Published
from ..plugin import BrokerPlugin
from ..stream.live_candles import CandleKey, LiveCandles, StoredCandle
from ..stream.router import Router
from ..web.server.tcp_server import open_listeners
from .backfill import BackfillPart
from .bus import BusPart, FollowedStoring
from .control import ControlPart
from .file_watch import FileWatch
from .lake_push import LakePushPart
from .loop_watchdog import WatchdogPart
from .parts import Part, Walk
from .past_of_store import PastOfStore
from .reload import Reload
from .service_manager import tell_ready, tell_stopping
from .signals import watch_signals
from .storage import DatabasePart, DrainPart, HousekeepingPart, JournalPart, LiveCandlesPart
from .streaming import BrokersPart, MemoryPart, RouterPart, WebPart, sources_of

__all__ = ["SHUTDOWN_S", "serve"]

SHUTDOWN_S = 10.0
SPARE_FILES = 512
"""File descriptors for purposes other than client connections: journal, database, venues."""

_log = structlog.get_logger("mdserver")


async def serve(
    config: Config,
    plugins: Mapping[str, BrokerPlugin],
    *,
    load: Callable[[], Config],
    watch: FileWatch | None = None,
    config_file: Path | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until SIGINT or SIGTERM, until its terminal is closed, or until a part that it needs fails.

    Args:
        config: The checked config.
        plugins: The broker plugins that loaded, by name.
        config_file: The file that the config was read from; commands that the server runs itself read it too.
        watch: Watches files and reloads the config when they change; None: only SIGHUP reloads it.
        load: Reads and checks the config again, at SIGHUP; raises ConfigError. Called in a thread.
        task_status: Started with the server's base URL once clients are served.

    Raises:
        DataFolderInUse: Another server owns the data folder.
        ConfigError: The address cannot be bound, or others could connect to it without keys.
        StoreUnavailable: A database that the data folder does not know did not answer in time.
    """
    check_exposure(config.server)
    _allow_open_files(config.server.max_connections)
    with lock_data_folder(config.data_dir):
        # Bound first, so that an address in use is reported before anything starts. Until the server is ready it
        # refuses connections.
        for listener in await open_listeners(config.server.hosts, config.server.port):
            await listener.aclose()
        # A stopping process ends within SHUTDOWN_S, whatever hangs. A thread sees to it, because the loop may hang too.
        last_resort = threading.Timer(SHUTDOWN_S - 0.5, _end_now)
        last_resort.daemon = True
        server = _Server(config, plugins, load, config_file)
        walk = server.walk
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_signals, walk.stop, walk.stopping.is_set, server.reload.ask)
                if watch is not None:
                    nursery.start_soon(watch.run, server.reload.ask, walk.stop)
                await walk.run(
                    on_started=partial(_announce, server, nursery, task_status),
                    on_stop=partial(_begin_stop, last_resort),
                    on_stuck=_end_now,
                )
                nursery.cancel_scope.cancel()
        finally:
            last_resort.cancel()


class _Server:
    """The parts of one run of the daemon."""

    def __init__(
        self,
        config: Config,
        plugins: Mapping[str, BrokerPlugin],
        load: Callable[[], Config],
        config_file: Path | None,
    ) -> None:
        metrics = Metrics()
        router = Router(metrics, config.server.window_ms / 1000)
        supervisor = Supervisor()
        self.database: DatabasePart | None = None
        self.journal: JournalPart | None = None
        self.drain: DrainPart | None = None
        self.bus: BusPart | None = None
        self.followed: FollowedStoring | None = None
        control = ControlPart(config.data_dir, supervisor)
        storing: list[Part] = []
        filling: list[Part] = []
        candles: LiveCandles | None = None
        if config.database.store:
            shared = config.bus.url is not None
            self.database = DatabasePart(config.database, config.data_dir, shared=shared)
            candles = self._live_candles(config, router)
            storing = [LiveCandlesPart(candles), self.database]
        if self.database is not None and candles is not None and config.bus.role != "edge":
            self.journal = JournalPart(
                config.journal, config.data_dir, self.database, lambda: self._route(router), metrics
            )
            self.drain = DrainPart(
                config.database, self.database, self.journal, metrics, partial(self._on_stored, candles)
            )
            housekeeping = HousekeepingPart(config.database, self.database, metrics, config.lake.address)
            backfill = BackfillPart(supervisor, router, metrics, self.database, self.drain, candles)
            control.handlers["backfill"] = backfill.fill_now
            filling = [backfill]
            if config.lake.url is not None and config.lake.push_every_h:
                filling.append(LakePushPart(config.lake, config_file, config.data_dir, metrics))
            storing[1:1] = [self.drain, housekeeping, self.journal]
        if self.database is not None and candles is not None and config.bus.url is not None:
            self.bus = BusPart(
                config.bus, config.data_dir, self.database, self.journal, router, metrics, candles.stored
            )
            self.followed = FollowedStoring(self.bus, self.database, self.drain)
            storing.insert(0, self.bus)
        brokers = BrokersPart(
            config.brokers,
            plugins,
            supervisor,
            router,
            metrics,
            emit=lambda: router.publish if self.journal is None else self.journal.publish,
            last_records=lambda: {} if self.journal is None else self.journal.last_records,
            bus=self.bus,
        )
        unstored = secrets.token_hex(8)  # without storage the numbers begin again at each start
        self.web = WebPart(
            config,
            supervisor,
            router,
            metrics,
            store=lambda: None if self.database is None else self.database.store,
            past=self._past,
            epoch=lambda: unstored if self.database is None else self.database.epoch,
            sources=lambda: sources_of(self.reload.config, plugins),
            ready=self._not_ready,
            candles=candles,
            open_own=brokers.open_own,
        )
        self.walk = Walk(
            [
                MemoryPart(),
                WatchdogPart(plugins, metrics, _log),
                control,
                *filling,
                brokers,
                RouterPart(router),
                self.web,
                *storing,
            ],
            metrics=metrics,
            log=_log,
        )
        self.reload = Reload(config, partial(_load_again, load, config_file), self.walk.parts, _log)

    def _route(self, router: Router) -> Callable[[list[Published]], None]:
        return router.publish if self.bus is None else self.bus.publish

    def _on_stored(self, candles: LiveCandles, batch: Sequence[Published]) -> None:
        candles.stored(batch)
        if self.bus is not None:
            self.bus.stored(batch)

    def _live_candles(self, config: Config, router: Router) -> LiveCandles:
        database = self.database
        assert database is not None  # noqa: S101 - the caller made it

        async def read(keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
            return await database.store.candles_at(keys)

        return LiveCandles(
            route=router.publish,
            read=read,
            barrier=self._barrier,
            away=self._storing_away,
            grace_s=config.server.candle_grace_ms / 1000,
        )

    def _barrier(self) -> Callable[[], bool]:
        """Return a function that tells whether all that was received until now is stored."""
        own = None if self.journal is None else self.journal.journal.barrier()
        others = None if self.followed is None else self.followed.barrier()
        return lambda: (own is None or own()) and (others is None or others())

    def _storing_away(self) -> str | None:
        """Return why nothing can be stored, or read, at present."""
        storing = self.followed or self.drain
        return None if storing is None else storing.away

    def _past(self) -> PastOfStore | None:
        """Return the stored past for replays; called once what stores has started."""
        storing = self.followed or self.drain
        if self.database is None or storing is None:
            return None
        is_behind = None if self.followed is None else self.followed.is_behind
        return PastOfStore(self.database.store, storing, is_behind)

    def _not_ready(self) -> Sequence[str]:
        """Return why the server is not ready, without details: these contain addresses and are in the log."""
        if self.walk.stopping.is_set():
            return ["the server is stopping"]
        whys = []
        if self._storing_away() is not None:
            whys.append("the database is unavailable")
        if self.bus is not None and self.bus.away is not None:
            whys.append("the bus is unavailable")
        if self.journal is not None and (refusal := self.journal.publish.refusal()) is not None:
            whys.append(f"records are not stored: {refusal}")
        return whys


def _load_again(load: Callable[[], Config], file: Path | None) -> Config:
    """Load the config for a reload. An empty file is one that is being written: it would end every broker. Blocking."""
    if file is not None and file.exists() and file.stat().st_size == 0:
        raise ConfigError([f"{file}: is empty"])
    return load()


def _announce(server: _Server, nursery: trio.Nursery, task_status: trio.TaskStatus[str]) -> None:
    nursery.start_soon(server.reload.run)
    task_status.started(server.web.url)
    tell_ready()


def _begin_stop(last_resort: threading.Timer) -> None:
    last_resort.start()
    tell_stopping()


def _allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files as far as the hard one allows; log if it is too low for the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if max(allowed, soft) < wanted:
        _log.warning(
            "the limit of open files is too low for server.max_connections: raise the hard limit (ulimit -Hn) or lower "
            "max_connections",
            open_files=max(allowed, soft),
            max_connections=connections,
        )


def _end_now() -> None:
    _log.error(
        "the server did not stop in time and is ended now: records that are not stored wait in the journal"
    )
    os._exit(1)
