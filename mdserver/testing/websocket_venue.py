"""A generic fake WebSocket venue on real sockets, the base for a fake of your own, with faults on demand.

Your venue overrides those of ``on_attempt``, ``on_connect``, ``on_message``, ``on_http`` and ``run`` that it needs::

    class FakeAcme(FakeWebSocketVenue):
        async def on_message(self, client, text):
            request = json.loads(text)
            client.topics.add(request["subscribe"])
            client.send({"subscribed": request["subscribe"]})

    async with open_fake_venue(FakeAcme()) as venue:
        ...  # connect a client to venue.url
        await venue.wait_until(lambda: "EURUSD" in venue.topics)
        venue.push("EURUSD", {"bid": 1.08703, "ask": 1.08705})
        venue.reset_in_frame()

It uses wsproto and h11, as our server and client do, instead of trio-websocket's server. That server answers every ping
by itself, never stops reading, hides its socket and accepts only upgrades, so it can produce neither a half-open
connection nor half a frame, nor serve REST on the same port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeAlias, TypeVar

import h11
import trio
import wsproto

from .fake_client import FakeClient
from .http_exchange import GONE, HttpAnswer, HttpRequest, read_request, send_answer
from .recorded import Frame

__all__ = ["FakeClient", "FakeWebSocketVenue", "HttpAnswer", "HttpRequest", "Script", "open_fake_venue"]

Script: TypeAlias = Iterable[tuple[float, Callable[[Any], object]]]
"""Pairs of seconds after the start and a call on the venue at that time, such as ``FakeWebSocketVenue.reset``."""


class FakeWebSocketVenue:
    """The venue. ``clients`` are the connected clients, oldest first; ``past`` the disconnected ones.

    ``attempts`` counts attempts to connect, refused ones too; ``requests`` are the HTTP requests so far.
    ``refusal``, if set, answers every attempt to connect; ``rest_refusal``, if set, answers every HTTP request.
    """

    path: ClassVar[str] = "/"
    """The path of the WebSocket; :meth:`on_http` answers an attempt at any other path."""

    def __init__(self) -> None:
        self.url = ""
        self.rest_url = ""
        self.clients: list[FakeClient] = []
        self.past: list[FakeClient] = []
        self.attempts = 0
        self.requests: list[HttpRequest] = []
        self.refusal: HttpAnswer | None = None
        self.rest_refusal: HttpAnswer | None = None
        self._changed = trio.Event()

    # -- for the venue to override -------------------------------------------------------------------

    async def on_attempt(self, request: HttpRequest) -> HttpAnswer | None:
        """Return the answer that refuses an attempt to connect, or None to accept it."""
        return self.refusal

    async def on_connect(self, client: FakeClient) -> None:
        """Send the first messages to a client; called once its handshake is accepted."""

    async def on_message(self, client: FakeClient, text: str) -> None:
        """Handle a client's message."""

    async def on_http(self, request: HttpRequest) -> HttpAnswer:
        """Answer a request that is not an upgrade."""
        return HttpAnswer(404, {"error": f"nothing at {request.path}"})

    async def run(self) -> None:
        """Run the venue's own activity, such as heartbeats, until cancelled."""

    # -- actions on all clients ----------------------------------------------------------------------

    @property
    def topics(self) -> frozenset[str]:
        """Every topic with at least one subscribed client."""
        return frozenset(topic for client in self.clients for topic in client.topics)

    def push(self, topic: str | None, message: object) -> int:
        """Send a message to all clients with ``topic`` (None: to all); return their number."""
        clients = [client for client in self.clients if topic is None or topic in client.topics]
        for client in clients:
            client.send(message)
        return len(clients)

    async def replay(self, frames: Iterable[Frame | str], *, speed: float | None = None) -> int:
        """Send recorded frames to all clients, whatever their subscriptions; return the number of deliveries.

        ``speed`` 1.0 keeps the recorded pauses, 10.0 is ten times as fast, None does not pause at all.
        """
        sent = 0
        before_s: float | None = None
        for frame in frames:
            time_s = frame.time_s if isinstance(frame, Frame) else 0.0
            if speed is not None and before_s is not None and time_s > before_s:
                await trio.sleep((time_s - before_s) / speed)
            before_s = time_s
            sent += self.push(None, frame.text if isinstance(frame, Frame) else frame)
        return sent

    def garbage(self) -> None:
        """Send each client a message that is not JSON."""
        self.push(None, '{"this is": not JSON')

    def ping(self) -> None:
        """Ping each client."""
        for client in self.clients:
            client.ping(b"venue")

    def disconnect(self, code: int = 1001, reason: str = "going away") -> None:
        """Close each connection with a close frame."""
        for client in self.clients:
            client.close(code, reason)

    def hang_up(self) -> None:
        """End each connection without a close frame."""
        for client in self.clients:
            client.hang_up()

    def reset(self) -> None:
        """Cut each connection by a TCP reset."""
        for client in self.clients:
            client.reset()

    def reset_in_frame(self) -> None:
        """Send each client half a message and cut its connection by a TCP reset."""
        for client in self.clients:
            client.reset_in_frame()

    def go_dark(self) -> None:
        """Leave each connection half open: it stays connected but sends nothing any more, not even pongs."""
        for client in self.clients:
            client.go_dark()

    def slow(self, bytes_per_s: float | None = 1000.0) -> None:
        """Limit each client to ``bytes_per_s`` from now on; nothing is dropped. None: as fast as the client reads."""
        for client in self.clients:
            client.bytes_per_s = bytes_per_s

    def refuse(self, status: int = 503, content: object = "", headers: dict[str, str] | None = None) -> None:
        """Refuse new connections with this HTTP status, until :meth:`admit`."""
        self.refusal = HttpAnswer(status, content, headers or {})

    def admit(self) -> None:
        """Accept new connections again."""
        self.refusal = None

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked after each message, request, attempt, and end of a client."""
        while not condition():
            await self._changed.wait()

    # -- serving ----------------------------------------------------------------------------------------

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one TCP connection from its first byte to its end."""
        async with stream:
            http = h11.Connection(our_role=h11.SERVER)
            try:
                while (request := await read_request(stream, http)) is not None:
                    answer = await self._answer(request)
                    if answer is None:
                        await self._upgrade(stream, request)
                        return
                    if not await send_answer(stream, http, answer):
                        return
            except (*GONE, h11.RemoteProtocolError, wsproto.utilities.RemoteProtocolError):
                return  # a client that disconnects or breaks the protocol must not fail the test

    async def _answer(self, request: HttpRequest) -> HttpAnswer | None:
        """Return the answer to a request, None to make it a WebSocket."""
        if request.is_upgrade and request.path.rstrip("/") == self.path.rstrip("/"):
            self.attempts += 1
            self.tell()
            return await self.on_attempt(request)
        self.requests.append(request)
        self.tell()
        return self.rest_refusal or await self.on_http(request)

    async def _upgrade(self, stream: trio.SocketStream, request: HttpRequest) -> None:
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        fields = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()
        ]
        protocol.initiate_upgrade_connection(fields, request.target)
        list(protocol.events())
        client = FakeClient(stream, protocol, request.target, self.tell)
        # Listed before the client can know that it is connected: its queue sends the handshake first.
        self.clients.append(client)
        self.tell()
        try:
            await client.serve(self.on_connect, self.on_message)
        finally:
            self.clients.remove(client)
            self.past.append(client)
            self.tell()

    def tell(self) -> None:
        """Check the conditions waited for again; call it when your venue has changed state of its own."""
        self._changed.set()
        self._changed = trio.Event()


VenueT = TypeVar("VenueT", bound=FakeWebSocketVenue)


@asynccontextmanager
async def open_fake_venue(venue: VenueT, *, script: Script = ()) -> AsyncIterator[VenueT]:
    """Run a venue on a free loopback port for the length of the block; ``script`` acts on it at its times."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(_listen, venue)
        host, port = listeners[0].socket.getsockname()[:2]
        venue.url, venue.rest_url = f"ws://{host}:{port}{venue.path}", f"http://{host}:{port}"
        nursery.start_soon(venue.run)
        nursery.start_soon(_play, venue, tuple(script))
        yield venue
        nursery.cancel_scope.cancel()


async def _listen(
    venue: FakeWebSocketVenue, *, task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    await trio.serve_tcp(venue.serve_stream, 0, host="127.0.0.1", task_status=task_status)


async def _play(venue: FakeWebSocketVenue, script: Script) -> None:
    start = trio.current_time()
    for at_s, act in sorted(script, key=lambda step: step[0]):
        await trio.sleep_until(start + at_s)
        act(venue)
