"""The parts that stream: brokers, the router's window, the web server, and the garbage collector's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import time_ns

import structlog
import trio

from ..backoff import Backoff
from ..bus.shared_broker import SharedBroker
from ..config import BrokerEntry, Config, ServerConfig, broker_changes, check_exposure, with_credentials
from ..feed.broker_host import Emit, Host, restart_gaps
from ..feed.broker_state import State
from ..feed.demand import BrokerDemand
from ..feed.supervised_broker import STOP_TIMEOUT_S, SupervisedBroker
from ..feed.supervisor import Supervisor
from ..kinds import BY_NAME, default_variant
from ..metrics import Metrics
from ..model import Feed, Instrument, LastRecord, RecordType, Topic
from ..plugin import BrokerPlugin
from ..protocol.requests import RequestError
from ..store.store import Store
from ..stream.live_candles import LiveCandles
from ..stream.own_session import OpenOwn, OwnSession
from ..stream.router import Router
from ..stream.stored_past import StoredPast
from ..web.access.access import Access
from ..web.api.dependencies import Dependencies, SourceInfo
from ..web.app import make_app
from ..web.server.tcp_server import open_listeners, serve_app
from ..web.server.tls import Certificate
from ..web.stream.clients import Clients
from .bus import BusPart
from .interpreter import keep_memory_in_bounds
from .lake_on_demand import LakeOnDemand
from .parts import Part

__all__ = ["BrokersPart", "MemoryPart", "RouterPart", "WebPart", "sources_of", "streamed_types"]

MAX_OWN_SESSIONS = 100
"""The most sessions with clients' own credentials, of all clients together."""
CLIENTS_CLOSE_S = 2.0
"""Bound on the close handshakes of all clients, and separately on the end of running requests."""

_log = structlog.get_logger("mdserver")


class MemoryPart(Part):
    """Keeps the garbage collector from interrupting the stream."""

    name = "memory"
    needed = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        task_status.started()
        await keep_memory_in_bounds()


class BrokersPart(Part):
    """The brokers of the config.

    ``emit`` and ``last_records`` are called when a broker is made, because they are known only once the parts that
    start earlier have started.
    """

    name = "brokers"
    stop_s = STOP_TIMEOUT_S
    reconfigures = frozenset({"brokers"})

    def __init__(
        self,
        entries: Sequence[BrokerEntry],
        plugins: Mapping[str, BrokerPlugin],
        supervisor: Supervisor,
        router: Router,
        metrics: Metrics,
        *,
        emit: Callable[[], Emit],
        last_records: Callable[[], Mapping[Topic, LastRecord]],
        bus: BusPart | None = None,
    ) -> None:
        self._bus = bus
        self._entries = {entry.name: entry for entry in entries if entry.enabled}
        self._plugins = plugins
        self._supervisor = supervisor
        self._router = router
        self._metrics = metrics
        self._emit = emit
        self._last_records = last_records
        self._of_those_gone: dict[Topic, LastRecord] = {}
        self._own_metrics = (
            Metrics()
        )  # a client's session must not change the metrics of the config's brokers
        metrics.own_sessions.set_function(lambda: supervisor.aside)
        supervisor.follow(lambda _: None, self._remember_numbers)

    def _remember_numbers(self, broker: SupervisedBroker) -> None:
        """Keep the last numbers of a removed broker: one that replaces it must not use them again."""
        self._of_those_gone |= broker.host.last_records()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        for entry in self._entries.values():
            self._supervisor.add(self.make(entry))
        self._note_those_gone()
        task_status.started()
        await self._supervisor.run()

    def _note_those_gone(self) -> None:
        """Publish the gap after the last records of brokers that the config no longer names; the others have hosts."""
        if self._bus is not None:
            return  # another process may run them
        gone = {
            topic: last for topic, last in self._last_records().items() if topic.broker not in self._entries
        }
        if begun := restart_gaps(gone):
            self._emit()(begun)

    async def reconfigure(self, config: Config, changed: frozenset[str]) -> None:
        """Add, remove and change brokers, and restart failed ones. See :meth:`Part.reconfigure`."""
        plan = broker_changes(list(self._entries.values()), config.brokers)
        touched = {*plan.removed, *(entry.name for entry in plan.restarted)}
        async with trio.open_nursery() as nursery:  # a broker that stops slowly must not delay the others
            for name in plan.removed:
                nursery.start_soon(self._remove, name)
            for entry in plan.restarted:
                nursery.start_soon(self._restart, entry)
            for broker in self._supervisor.brokers.values():
                if broker.state is State.FAILED and broker.name not in touched:
                    nursery.start_soon(broker.restart, "the config was reloaded")
        for entry in plan.changed:
            self._entries[entry.name] = entry
            self._settle(self._supervisor.brokers[entry.name], entry)
        for entry in plan.added:
            if entry.name in self._entries:
                continue  # the broker of the previous plugin has not stopped; the next reload tries again
            self._entries[entry.name] = entry
            self._supervisor.add(self.make(entry))
        self._supervisor.arrange(plan.order)

    def open_own(self, name: str, credentials: dict[str, object]) -> OwnSession:
        """Open a session of a broker for one client, with its credentials. See :data:`.own_session.OpenOwn`."""
        entry = self._entries.get(name)
        if entry is None:
            raise RequestError(408, f'broker: unknown broker "{name[:40]}"')
        if not entry.client_credentials:
            raise RequestError(409, f"not permitted: {name} takes no credentials of clients")
        if self._supervisor.aside >= MAX_OWN_SESSIONS:
            raise RequestError(
                405, f"too many sessions with own credentials: {MAX_OWN_SESSIONS} allowed in all"
            )
        try:
            settings = with_credentials(entry.settings, credentials)
        except ValueError as error:
            raise RequestError(400, str(error)) from None
        plugin, metrics, demand = self._plugins[entry.plugin], self._own_metrics, BrokerDemand()
        router = Router(metrics, pacer=self._router.pacer)
        host = Host(
            name,
            demand,
            emit=router.publish,
            last_records={},
            metrics=metrics,
            log=_log.bind(own_session=True),
        )
        broker = SupervisedBroker(
            plugin,
            partial(plugin.factory, settings),
            demand,
            host,
            metrics,
            backoff=Backoff(entry.backoff.first_s, entry.backoff.most_s),
        )
        return OwnSession(
            broker, router, partial(self._supervisor.run_aside, broker, list(map(str, credentials.values())))
        )

    async def _remove(self, name: str) -> None:
        if await self._supervisor.remove(name, "the config has changed"):
            del self._entries[name]

    async def _restart(self, entry: BrokerEntry) -> None:
        broker = self._supervisor.brokers[entry.name]
        self._entries[entry.name] = entry
        self._settle(broker, entry)
        await broker.restart("its config has changed")

    def _settle(self, broker: SupervisedBroker, entry: BrokerEntry) -> None:
        broker.demand.pin(_pinned(entry, broker.plugin), _only(entry))
        broker.reconfigure(
            partial(broker.plugin.factory, entry.settings),
            Backoff(entry.backoff.first_s, entry.backoff.most_s),
        )

    def make(self, entry: BrokerEntry) -> SupervisedBroker:
        """Return the broker of a config entry; it does not run yet."""
        plugin = self._plugins[entry.plugin]
        demand = BrokerDemand(_pinned(entry, plugin), _only(entry))
        emit = self._emit()
        guard = None if self._bus is None else self._bus.guard(emit)
        host = Host(
            entry.name,
            demand,
            emit=guard or emit,
            # where a shared broker stands is found out each time that this process becomes its leader
            last_records={} if guard else {**self._last_records(), **self._of_those_gone},
            metrics=self._metrics,
            log=_log,
        )
        factory = partial(plugin.factory, entry.settings)
        backoff = Backoff(entry.backoff.first_s, entry.backoff.most_s)
        if self._bus is None or guard is None:
            return SupervisedBroker(plugin, factory, demand, host, self._metrics, backoff=backoff)
        shared = SharedBroker(plugin, factory, demand, host, self._metrics, backoff=backoff)
        return self._bus.share(shared, guard)


def _pinned(entry: BrokerEntry, plugin: BrokerPlugin) -> list[Feed]:
    """Return the feeds that a config entry names."""
    types = streamed_types(entry, plugin)
    return [Feed(symbol, kind, default_variant(kind)) for symbol in entry.symbols for kind in types]


def _only(entry: BrokerEntry) -> frozenset[str] | None:
    return frozenset(entry.symbols) if entry.only_symbols else None


def streamed_types(entry: BrokerEntry, plugin: BrokerPlugin) -> tuple[RecordType, ...]:
    """Return the record types that the symbols of a config entry are streamed of.

    Where it names none: those of the plugin that are stored, since what nobody stores is of no use without a client.
    """
    stored = tuple(kind for kind in plugin.types if BY_NAME[kind].stored is not None)
    return entry.types or stored or plugin.types


class RouterPart(Part):
    """Closes the router's window of time, sends what waits for its rate, and delivers what is left at the end."""

    name = "router"

    def __init__(self, router: Router) -> None:
        self._router = router

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        task_status.started()
        await self._router.run()

    async def stop(self) -> None:
        """Deliver the records in the window."""
        self._router.flush()


class WebPart(Part):
    """The HTTP and WebSocket server. ``url`` is set once it has started."""

    name = "web server"
    stop_s = 2 * CLIENTS_CLOSE_S
    reconfigures = frozenset(
        {
            *("server.auth", "server.allowed_origins", "server.allowed_hosts", "server.requests_per_minute"),
            "server.tls",
        }
    )

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        router: Router,
        metrics: Metrics,
        *,
        store: Callable[[], Store | None],
        epoch: Callable[[], str],
        past: Callable[[], StoredPast | None],
        sources: Callable[[], Sequence[SourceInfo]],
        ready: Callable[[], Sequence[str]],
        candles: LiveCandles | None,
        open_own: OpenOwn,
    ) -> None:
        self._candles = candles
        self._open_own = open_own
        self.url = ""
        self._config = config
        self._supervisor = supervisor
        self._router = router
        self._metrics = metrics
        self._clients = Clients(config.server.max_clients, metrics)
        self._access = Access(config.server, metrics)
        tls = config.server.tls
        self._certificate = None if tls is None else Certificate(tls)
        self._allowed_origins = config.server.allowed_origins
        self._store = store
        self._epoch = epoch
        self._past = past
        self._sources = sources
        self._ready = ready
        self._lake = LakeOnDemand(config.lake, config.plugin_folders)
        self._end = trio.Event()
        self._closed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        server = self._config.server
        listeners = await open_listeners(server.hosts, server.port)
        self.url = _url(server, *listeners[0].socket.getsockname()[:2])
        app = make_app(
            self._dependencies(),
            self._supervisor,
            self._router,
            self._clients,
            server,
            epoch=self._epoch(),
            candles=self._candles,
            access=self._access,
            past=self._past(),
            open_own=self._open_own,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clients.keep)
                await serve_app(
                    app,
                    listeners,
                    self._metrics,
                    stop=self._end,
                    grace_s=CLIENTS_CLOSE_S,
                    settings=server,
                    certificate=self._certificate,
                    task_status=task_status,
                )
                nursery.cancel_scope.cancel()
        finally:
            self._closed.set()

    async def reconfigure(self, config: Config, changed: frozenset[str]) -> None:
        """Apply new keys, limits and origins, and read the certificate's files again. See :meth:`Part.reconfigure`.

        Clients stay connected, except those whose key was removed. Only a restart changes the addresses, the port, the
        limits on connections and buffers, and whether TLS is used.
        """
        server = config.server
        check_exposure(server)
        if self._certificate is not None and server.tls is not None:
            self._certificate.load(server.tls)
        elif self._certificate is not None or server.tls is not None:
            _log.warning("these settings need a restart", settings=["server.tls"])
        self._allowed_origins = server.allowed_origins
        self._access.take(server)
        self._clients.renew_grants()

    async def stop(self) -> None:
        """Close the clients with 1012, then the listeners; running requests may end."""
        self._clients.close_all()
        with trio.move_on_after(CLIENTS_CLOSE_S):
            await self._clients.gone()
        self._end.set()
        await self._closed.wait()

    def _dependencies(self) -> Dependencies:
        return Dependencies(
            store=self._store(),
            broker_states=self._supervisor.states,
            sources=self._sources,
            ready=self._ready,
            metrics=self._metrics,
            now_us=lambda: time_ns() // 1000,
            flush_s=self._config.database.flush_ms / 1000,
            last=self._router.last,
            allowed_origins=lambda: self._allowed_origins,
            listed=self._listed,
            lake=self._lake,
        )

    def _listed(self, broker: str) -> Mapping[str, Instrument]:
        running = self._supervisor.brokers.get(broker)
        return {} if running is None else running.host.demand.instruments


def _url(server: ServerConfig, host: str, port: int) -> str:
    """Return the URL at which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    scheme = "http" if server.tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def sources_of(config: Config, plugins: Mapping[str, BrokerPlugin]) -> list[SourceInfo]:
    """Return the sources of records in their order of preference: brokers, then history."""
    sources = []
    for entry in config.brokers:
        if entry.enabled:
            plugin = plugins[entry.plugin]
            types = streamed_types(entry, plugin)
            sources.append(
                SourceInfo(entry.name, plugin.candles_from, entry.symbols, types, plugin.synthetic)
            )
    sources += [SourceInfo(source.name) for source in config.history]
    # records of the first run's mock stay marked as made up after the config names other brokers
    named = {source.name for source in sources}
    made_up = [plugin.name for plugin in plugins.values() if plugin.synthetic]
    return sources + [SourceInfo(name, synthetic=True) for name in made_up if name not in named]
