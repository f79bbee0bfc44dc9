"""A server without a database, over real sockets, with brokers that the test scripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h11
import structlog
import trio
from trio_websocket import WebSocketConnection, connect_websocket_url

from mdserver.config import ServerConfig
from mdserver.feed.broker_host import Emit, Host
from mdserver.feed.demand import BrokerDemand
from mdserver.feed.supervised_broker import SupervisedBroker
from mdserver.feed.supervisor import Supervisor
from mdserver.metrics import Metrics
from mdserver.model import Feed, Record
from mdserver.plugin import BrokerHost, BrokerPlugin
from mdserver.stream.live_candles import LiveCandles
from mdserver.stream.router import Router
from mdserver.stream.stored_past import StoredPast
from mdserver.web.access.access import Access
from mdserver.web.api.dependencies import Dependencies, SourceInfo
from mdserver.web.app import make_app
from mdserver.web.server.tcp_server import open_listeners, serve_app
from mdserver.web.server.tls import Certificate
from mdserver.web.server.websocket_connection import StreamingQuartTrio
from mdserver.web.stream.clients import Clients

EPOCH = "5f3a9c210badcafe"


class ScriptedBroker:
    """Confirms what it is asked for, but refuses and delays as told; the test publishes through ``host``."""

    def __init__(self) -> None:
        self.host: BrokerHost | None = None
        self.refuses: dict[str, str] = {}
        self.silent: set[str] = set()
        self.running = trio.Event()
        self.end = trio.Event()

    async def run(self, host: BrokerHost, *, task_status: trio.TaskStatus[None]) -> None:
        self.host = host
        task_status.started()
        self.running.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer, host)
            await self.end.wait()
            self.end = trio.Event()
            nursery.cancel_scope.cancel()

    async def _answer(self, host: BrokerHost) -> None:
        known: frozenset[Feed] = frozenset()
        while True:
            wanted = await host.demand.wait_changed(known)
            new = sorted(wanted - known)
            for feed in new:
                if feed.symbol in self.refuses:
                    host.refuse([feed], self.refuses[feed.symbol])
            host.confirm([f for f in new if f.symbol not in self.silent and f.symbol not in self.refuses])
            known = host.demand.current()

    def publish(self, *batch: Record) -> None:
        assert self.host is not None
        self.host.publish(batch)


@attrs.define
class StreamServer:
    """A running server and what a test reaches of it."""

    url: str
    port: int
    brokers: dict[str, ScriptedBroker]
    clients: Clients
    router: Router
    metrics: Metrics
    supervisor: Supervisor
    app: StreamingQuartTrio
    access: Access

    def take(self, **server: Any) -> None:
        """Reload the settings of access."""
        self.access.take(ServerConfig(**server))
        self.clients.renew_grants()

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mdserver_{name}", labels) or 0.0


def make_supervised(
    name: str,
    broker: ScriptedBroker,
    router: Router,
    metrics: Metrics,
    types: tuple = ("tick", "trade"),
    emit: Emit | None = None,
) -> SupervisedBroker:
    demand = BrokerDemand()
    host = Host(
        name,
        demand,
        emit=emit or router.publish,
        last_records={},
        metrics=metrics,
        log=structlog.get_logger(),
    )
    plugin = BrokerPlugin(name, "scripted", object, lambda _: None, types=types)
    return SupervisedBroker(plugin, lambda: broker, demand, host, metrics)


@asynccontextmanager
async def open_stream_server(
    names: Sequence[str] = ("one",),
    *,
    window_s: float = 0.0,
    types: tuple = ("tick", "trade"),
    services: dict[str, Any] | None = None,
    storing: Callable[[Router, Metrics], tuple[Emit, StoredPast]] | None = None,
    certificate: Certificate | None = None,
    candles: Callable[[Router], LiveCandles] | None = None,
    **server: Any,
) -> AsyncIterator[StreamServer]:
    metrics = Metrics()
    router = Router(metrics, window_s)
    emit, past = (router.publish, None) if storing is None else storing(router, metrics)
    scripted = {name: ScriptedBroker() for name in names}
    supervised = [
        make_supervised(name, broker, router, metrics, types=types, emit=emit)
        for name, broker in scripted.items()
    ]
    supervisor = Supervisor(supervised)
    config = ServerConfig(port=0, window_ms=window_s * 1000, **server)
    clients = Clients(config.max_clients, metrics)
    given: dict[str, Any] = {
        "store": None,
        "broker_states": supervisor.states,
        "sources": lambda: [SourceInfo(name) for name in names],
        "ready": list,
        "metrics": metrics,
        "now_us": lambda: 0,
    }
    access = Access(config, metrics)
    live = None if candles is None else candles(router)
    app = make_app(
        Dependencies(**(given | (services or {}))),
        supervisor,
        router,
        clients,
        config,
        epoch=EPOCH,
        access=access,
        past=past,
        candles=live,
    )
    listeners = await open_listeners(["127.0.0.1"], 0)
    port = listeners[0].socket.getsockname()[1]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        nursery.start_soon(clients.keep)
        nursery.start_soon(router.run)
        if live is not None:
            await nursery.start(live.run)
        await nursery.start(
            partial(
                serve_app,
                app,
                listeners,
                metrics,
                stop=stop,
                grace_s=1.0,
                settings=config,
                certificate=certificate,
            )
        )
        for broker in scripted.values():
            await broker.running.wait()
        yield StreamServer(
            f"{'ws' if certificate is None else 'wss'}://127.0.0.1:{port}/",
            port,
            scripted,
            clients,
            router,
            metrics,
            supervisor,
            app,
            access,
        )
        clients.close_all()
        stop.set()
        nursery.cancel_scope.deadline = trio.current_time() + 3
        nursery.cancel_scope.cancel()


class Client:
    """A WebSocket client that speaks JSON."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def send(self, message: Any) -> None:
        text = message if isinstance(message, str | bytes) else json.dumps(message)
        await self.connection.send_message(text)

    async def get(self) -> Any:
        with trio.fail_after(30):
            return json.loads(await self.connection.get_message())

    async def ask(self, message: Any) -> Any:
        await self.send(message)
        return await self.get()

    async def subscribe(self, *symbols: str, **fields: Any) -> Any:
        return await self.ask({"action": "subscribe", "symbols": list(symbols), **fields})


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            connection = await connect_websocket_url(nursery, url, max_message_size=1 << 24)
        client = Client(connection)
        hello = await client.get()
        assert hello["type"] == "status"
        try:
            yield client
            with trio.move_on_after(1):
                await connection.aclose()
        finally:
            # the library leaves the socket open where the server closed it in the middle of a send
            await trio.aclose_forcefully(connection._stream)
        nursery.cancel_scope.cancel()


@attrs.frozen
class HttpAnswer:
    """What a server answered; ``headers`` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def http_get(port: int, target: str, method: str = "GET", **headers: str) -> HttpAnswer:
    """Ask over a socket of its own; header names are written with ``_``."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    http = h11.Connection(h11.CLIENT)
    with trio.fail_after(30):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            request = h11.Request(method=method, target=target, headers=[("Host", "localhost"), *named])
            await stream.send_all(http.send(request) + http.send(h11.EndOfMessage()))
            head, body = None, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65_536))
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    assert isinstance(event, h11.EndOfMessage), event
                    break
    assert head is not None
    return HttpAnswer(
        head.status_code, {name.decode().lower(): value.decode() for name, value in head.headers}, body
    )
