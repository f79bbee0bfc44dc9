"""The Quart-Trio application: HTTP routes and the WebSocket endpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

from quart import Response, Websocket

from ..config import ServerConfig
from ..feed.supervisor import Supervisor
from ..stream.live_candles import LiveCandles
from ..stream.own_session import OpenOwn
from ..stream.replay import Replays
from ..stream.router import Router
from ..stream.stored_past import StoredPast
from .access.access import Access
from .api.dependencies import Dependencies
from .api.event_stream import event_stream
from .api.guard import guard
from .api.problem import Problem, problem_response
from .api.read_context import Reading
from .api.routes import http_routes
from .api.stream_form import StreamForm, stream_form
from .page.routes import page_routes
from .server.websocket_connection import StreamingQuartTrio
from .stream.clients import Clients
from .stream.endpoint import stream_endpoint
from .stream.event_session import EventSession
from .stream.heartbeats import Heartbeats
from .stream.session import Session
from .udf.routes import udf_routes

__all__ = ["make_app"]


def make_app(
    services: Dependencies,
    supervisor: Supervisor,
    router: Router,
    clients: Clients,
    config: ServerConfig,
    *,
    epoch: str,
    past: StoredPast | None = None,
    candles: LiveCandles | None = None,
    open_own: OpenOwn | None = None,
    access: Access | None = None,
) -> StreamingQuartTrio:
    """Compose the application.

    ``epoch`` names the numbering of the records that it streams; ``past`` is what is stored of them, None for nothing;
    without ``candles`` there are no live ones; ``open_own`` makes the sessions for which clients bring credentials.
    ``access`` says who may come in, by default what the config says.
    """
    access = access or Access(config, services.metrics)
    app = StreamingQuartTrio("mdserver")
    guard(app, access)
    app.register_blueprint(page_routes(lambda: access.has_keys))
    supervisor.follow(clients.subscribers.watch, clients.subscribers.unwatch)
    supervisor.follow(lambda broker: broker.listeners.append(clients.on_broker_state), lambda _: None)
    shared = dict[str, Any](
        brokers=supervisor.brokers,
        router=router,
        replays=Replays(past, router, services.metrics),
        epoch=epoch,
        holders=clients.subscribers,
        metrics=services.metrics,
        max_symbols=config.max_symbols,
        candles=candles,
        open_own=open_own,
    )
    clients.heartbeats = Heartbeats(router)
    if candles is not None:
        candles.listeners.append(clients.on_candles_state)
    given = dict[str, Any](epoch=epoch, buffer_bytes=config.client_buffer_bytes)
    events = event_stream(clients, partial(EventSession, **shared), access, **given)
    reading = Reading(services)
    app.register_blueprint(http_routes(reading, events))
    app.register_blueprint(udf_routes(reading))
    endpoint = stream_endpoint(clients, partial(Session, **shared), access, form_of=_form_of, **given)
    for path in ("/", "/stream"):
        app.add_websocket(path, f"stream {path}", endpoint)
    return app


def _form_of(asked: Websocket) -> StreamForm | Response:
    try:
        return stream_form(asked.args.items(multi=True))
    except Problem as problem:
        return problem_response(problem)
