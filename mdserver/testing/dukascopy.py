"""A fake Dukascopy over real sockets: the datafeed's files and the JSON API, with faults on demand.

It answers as the real services do: an hour without ticks is a file of zero bytes, an unknown path is 404, and the JSON
API answers 400 for an hour that is not over. Every request is kept, so that a test can count them::

    async with open_fake_dukascopy() as feed:
        feed.put_hour("EURUSD", "EUR-USD", hour_us, [FakeTick(0, 114545, 114543)], decimals=5)
        feed.fail(Fault("status", status=503), times=2)
        ...  # point the plugin's `url` to feed.url and `jetta_url` to feed.jetta_url
        assert len(feed.requests) == 3
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import attrs
import h11
import trio

from .bi5 import FakeTick, encode_ticks, encode_ticks_json, json_path, ticks_path

__all__ = ["FakeDukascopy", "FakeRequest", "FakeTick", "Fault", "FaultKind", "open_fake_dukascopy"]

FaultKind: TypeAlias = Literal[
    "status", "html", "cut", "broken off", "short", "garbage", "hang", "stall", "reset"
]

_DATAFEED, _JETTA = "/datafeed/", "/v1/"
_PAGE = b"<!DOCTYPE html><html><body>Access to this resource is restricted.</body></html>"
_TYPES = {_DATAFEED: b"application/octet-stream", _JETTA: b"application/json"}


@attrs.frozen
class Fault:
    """A fault of one answer.

    ``status``: this status (and Retry-After) in place of the answer. ``html``: 200 with a web page. ``cut``: the first
    half of the body with a matching Content-Length. ``broken off``: the first half, then the connection ends.
    ``short``: the whole body, but a Content-Length of half of it. ``garbage``: some bytes of the body are replaced.
    ``hang``: the request is read and never answered. ``stall``: half of the body, then nothing. ``reset``: the
    connection is reset.
    """

    kind: FaultKind
    status: int = 503
    retry_after: str | None = None


class FakeRequest(NamedTuple):
    """A received request: ``path`` below the service's base, ``time`` by trio's clock, header names in lower case."""

    service: Literal["datafeed", "jetta", "other"]
    path: str
    time: float
    headers: dict[str, str]
    fault: Fault | None


class FakeDukascopy:
    """The two services. ``files`` and ``answers`` are their contents by path and may be changed at any time.

    ``folder``: where files of the datafeed are read that are not in ``files``. ``clock`` (seconds since the epoch)
    decides which hours are over. ``most_at_once``: the largest number of simultaneous requests so far.
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.url = ""
        self.jetta_url = ""
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.folder = folder
        self.clock = clock
        self.requests: list[FakeRequest] = []
        self.most_at_once = 0
        self._now = 0
        self._came = trio.Event()
        self._faults: list[tuple[Fault, int | None, str]] = []

    def put_hour(
        self, code: str, jetta_code: str, hour_us: int, rows: Sequence[FakeTick], *, decimals: int
    ) -> None:
        """Publish or replace an hour in both services; without rows it is an empty hour."""
        self.files[ticks_path(code, hour_us)] = encode_ticks(rows)
        self.answers[json_path(jetta_code, hour_us)] = (200, encode_ticks_json(rows, hour_us, decimals))

    def fail(self, fault: Fault, *, times: int | None = None, path: str = "") -> None:
        """Answer the next ``times`` requests (None: all) whose URL path contains ``path`` with a fault.

        Faults are used up in the order in which they were given.
        """
        self._faults.append((fault, times, path))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def count(self, path: str = "") -> int:
        """Return how many requests had ``path`` in their path."""
        return sum(path in request.path for request in self.requests)

    async def wait_requests(self, count: int) -> None:
        """Wait until ``count`` requests have been received."""
        while len(self.requests) < count:
            await self._came.wait()

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one TCP connection, with keep-alive, from its first byte to its end."""
        async with stream:
            try:
                http = h11.Connection(h11.SERVER)
                while (request := await _next_request(stream, http)) is not None:
                    self._now += 1
                    self.most_at_once = max(self.most_at_once, self._now)
                    try:
                        await self._answer(stream, http, request)
                    finally:
                        self._now -= 1
                    if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                        return
                    http.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                return  # a client that disconnects or breaks the protocol must not fail the test

    async def _answer(self, stream: trio.SocketStream, http: h11.Connection, request: h11.Request) -> None:
        target = request.target.decode().partition("?")[0]
        base = next((base for base in _TYPES if target.startswith(base)), None)
        fault = self._take_fault(target)
        path = target.removeprefix(base or "/")
        service: Literal["datafeed", "jetta", "other"] = "other"
        if base is not None:
            service = "datafeed" if base == _DATAFEED else "jetta"
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.requests.append(FakeRequest(service, path, trio.current_time(), headers, fault))
        self._came.set()
        self._came = trio.Event()
        status, body = {"datafeed": self._file, "jetta": self._json, "other": _unknown}[service](path)
        content_type = _TYPES[base] if base is not None and status == 200 else b"text/plain"
        if fault is None:
            await _respond(stream, http, status, body, content_type)
        else:
            await _misbehave(stream, http, fault, body, content_type)

    def _take_fault(self, target: str) -> Fault | None:
        for index, (fault, times, part) in enumerate(self._faults):
            if part not in target:
                continue
            if times is not None:
                self._faults[index] = (fault, times - 1, part)
                if times == 1:
                    del self._faults[index]
            return fault
        return None

    def _file(self, path: str) -> tuple[int, bytes]:
        body = self.files.get(path)
        if body is None and self.folder is not None:
            file = self.folder / path
            body = file.read_bytes() if file.is_file() else None
        return (404, b"not found") if body is None else (200, body)

    def _json(self, path: str) -> tuple[int, bytes]:
        if path in self.answers:
            return self.answers[path]
        parts = path.split("/")
        if len(parts) == 6 and parts[0] == "ticks" and all(part.isdecimal() for part in parts[2:]):
            year, month, day, hour = map(int, parts[2:])
            if datetime(year, month, day, hour, tzinfo=UTC).timestamp() + 3_600 > self.clock():
                return 400, b'{"message":"period is not finished"}'
        return 404, b'{"message":"not found"}'


@asynccontextmanager
async def open_fake_dukascopy(
    folder: Path | None = None, *, clock: Callable[[], float] = time.time, port: int = 0
) -> AsyncIterator[FakeDukascopy]:
    """Run the fake on a loopback port (0: a free one) for the length of the block."""
    feed = FakeDukascopy(folder, clock)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        address = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        feed.url, feed.jetta_url = address + _DATAFEED, address + _JETTA
        nursery.start_soon(trio.serve_listeners, feed.serve_stream, listeners)  # noqa: ASYNC113 - they listen already
        yield feed
        nursery.cancel_scope.cancel()


def _unknown(_path: str) -> tuple[int, bytes]:
    return 404, b"not found"


async def _next_request(stream: trio.SocketStream, http: h11.Connection) -> h11.Request | None:
    """Read a whole request; return None once the connection has ended."""
    request: h11.Request | None = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _respond(
    stream: trio.SocketStream,
    http: h11.Connection,
    status: int,
    body: bytes,
    content_type: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]
    response = h11.Response(status_code=status, headers=headers)
    parts = [http.send(response), http.send(h11.Data(data=body)), http.send(h11.EndOfMessage())]
    await stream.send_all(b"".join(part for part in parts if part))


async def _misbehave(
    stream: trio.SocketStream, http: h11.Connection, fault: Fault, body: bytes, content_type: bytes
) -> None:
    half = len(body) // 2
    if fault.kind == "status":
        extra = [(b"retry-after", fault.retry_after.encode())] if fault.retry_after is not None else []
        await _respond(stream, http, fault.status, b"try later", b"text/plain", extra)
    elif fault.kind == "html":
        await _respond(stream, http, 200, _PAGE, b"text/html")
    elif fault.kind == "cut":
        await _respond(stream, http, 200, body[:half], content_type)
    elif fault.kind == "garbage":
        damaged = bytes(byte ^ 0xA5 for byte in body[half : half + 16])
        await _respond(stream, http, 200, body[:half] + damaged + body[half + 16 :], content_type)
    elif fault.kind in ("broken off", "short", "stall"):
        length = half if fault.kind == "short" else len(body)
        await stream.send_all(_head(length, content_type) + (body if fault.kind == "short" else body[:half]))
        if fault.kind == "stall":
            await _wait_for_end(stream)
    elif fault.kind == "hang":
        await _wait_for_end(stream)
    else:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _head(length: int, content_type: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (content_type, length)


async def _wait_for_end(stream: trio.SocketStream) -> None:
    """Send nothing until the client disconnects."""
    while await stream.receive_some():
        pass
