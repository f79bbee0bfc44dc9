"""One exchange of the generic HTTP venue: a request, its answer, and the faults that may be applied to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import attrs
import h11
import trio

from .http_exchange import GONE, HttpAnswer, HttpRequest

__all__ = ["FakeExchange", "HttpFault", "reset_on_close"]

HttpFaultKind: TypeAlias = Literal["status", "html", "garbage", "cut", "hang", "stall", "slow", "reset"]

_PAGE = b"<!DOCTYPE html><html><head><title>Access denied</title></head><body>Blocked.</body></html>"
_RESET = b"\1\0\0\0\0\0\0\0"


@attrs.frozen
class HttpFault:
    """A fault of one answer.

    ``status``: this status, ``headers`` and ``body`` in place of the answer. ``html``: 200 with a web page.
    ``garbage``: bytes that are not HTTP. ``cut``: the body ends after half of its Content-Length.
    ``hang``: the request is read and never answered. ``stall``: half of the body, then nothing.
    ``slow``: the body is sent byte by byte, ``pause_s`` apart. ``reset``: the connection is reset.
    Only ``status``, ``html``, ``garbage``, ``hang`` and ``reset`` apply to a stream: its body is not known beforehand.
    """

    kind: HttpFaultKind
    status: int = 503
    body: object = b"try later"
    headers: dict[str, str] = attrs.Factory(dict)
    pause_s: float = 0.01


class FakeExchange:
    """One request and its answer. ``params`` are the parts of the path that the route names.

    ``headers`` are added to the answer.

    ``streaming``: the body has begun and :meth:`send` adds to it. ``time`` is the start by trio's clock.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        http: h11.Connection,
        request: HttpRequest,
        tell: Callable[[], None],
    ) -> None:
        self.request = request
        self.params: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.time = trio.current_time()
        self.streaming = False
        self.fault: HttpFault | None = None
        self._stream = stream
        self._http = http
        self._tell = tell
        self._send_lock = trio.Lock()
        self._ended = trio.Event()

    async def respond(self, status: int = 200, content: object = b"", **headers: str) -> None:
        """Answer: bytes as they are, anything else as JSON. ``retry_after=…`` becomes ``Retry-After``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.answer(HttpAnswer(status, content, named))

    async def answer(self, answer: HttpAnswer) -> None:
        """Send a whole answer; a fault of the venue is applied to it."""
        data = answer.body()
        kind = "text/plain" if isinstance(answer.content, str | bytes) else "application/json"
        head = {"Content-Type": kind, **self.headers, **answer.headers}
        fault = self.fault
        if fault is None or fault.kind in ("slow", "stall"):
            await self._send_head(answer.status, {**head, "Content-Length": str(len(data))})
            if fault is not None:
                await self._send_badly(data, fault)
            else:
                await self._send_event(h11.Data(data=data))
            await self._send_event(h11.EndOfMessage())
        elif fault.kind == "cut":
            await self._send_head(answer.status, {**head, "Content-Length": str(2 * len(data) + 2)})
            await self._send_event(h11.Data(data=data))
            await self._stream.aclose()

    async def start_stream(
        self, *first: bytes, content_type: str = "application/octet-stream", **headers: str
    ) -> None:
        """Send the head of a chunked answer and its ``first`` chunks; :meth:`send` adds further ones.

        Pushed data never precede the first chunks, so give a snapshot there.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        # Listed as streaming before the client can know of it; data pushed meanwhile wait for the lock.
        self.streaming = True
        self._tell()
        fields = {"Content-Type": content_type, **self.headers, **named, "Transfer-Encoding": "chunked"}
        head = h11.Response(status_code=200, headers=list(fields.items()))
        await self._send_event(head, *(h11.Data(data=chunk) for chunk in first))

    async def send(self, data: bytes) -> None:
        """Send ``data`` as one chunk of the body. Raises ClosedResourceError once the body has ended."""
        async with self._send_lock:
            # After the end of the body another exchange may use the connection.
            if not self.streaming:
                raise trio.ClosedResourceError("the body of the answer has ended")
            await self._stream.send_all(self._http.send(h11.Data(data=data)) or b"")

    async def send_raw(self, data: bytes) -> None:
        """Write bytes to the socket unchanged, regardless of HTTP."""
        async with self._send_lock:
            await self._stream.send_all(data)

    async def end(self) -> None:
        """End the body properly."""
        self.streaming = False
        await self._send_event(h11.EndOfMessage())
        self._ended.set()

    async def reset(self) -> None:
        """Reset the connection at once, whatever is being sent."""
        self.streaming = False
        reset_on_close(self._stream)
        await self._stream.aclose()
        self._ended.set()

    async def wait_gone(self) -> None:
        """Return once the client has disconnected, or the body was ended or reset. Sends nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_client, nursery.cancel_scope)
            await self._ended.wait()
            nursery.cancel_scope.cancel()

    async def _watch_client(self, scope: trio.CancelScope) -> None:
        try:
            while await self._stream.receive_some():
                pass
        except GONE:
            return  # the client or this side has reset the connection
        finally:
            self.streaming = False
            scope.cancel()

    async def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        await self._send_event(h11.Response(status_code=status, headers=list(headers.items())))

    async def _send_event(self, *events: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        async with self._send_lock:
            data = b"".join(self._http.send(event) or b"" for event in events)
            if data:
                await self._stream.send_all(data)

    async def _send_badly(self, data: bytes, fault: HttpFault) -> None:
        if fault.kind == "stall":
            await self._send_event(h11.Data(data=data[: len(data) // 2]))
            await self.wait_gone()
            raise trio.ClosedResourceError("the client has disconnected")
        for at in range(len(data)):
            await self._send_event(h11.Data(data=data[at : at + 1]))
            await trio.sleep(fault.pause_s)

    async def misbehave(self, fault: HttpFault) -> bool:
        """Apply ``fault`` in place of the answer; return False if it only changes how the answer is sent."""
        self.fault = None
        if fault.kind == "status":
            await self.answer(HttpAnswer(fault.status, fault.body, fault.headers))
        elif fault.kind == "html":
            await self.answer(HttpAnswer(200, _PAGE, {"Content-Type": "text/html"}))
        elif fault.kind == "garbage":
            await self.send_raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            await self._stream.aclose()
        elif fault.kind == "hang":
            await self.wait_gone()
        elif fault.kind == "reset":
            await self.reset()
        else:
            self.fault = fault
            return False
        return True


def reset_on_close(stream: trio.SocketStream) -> None:
    """Make closing the connection a reset, so that unsent and unread bytes are lost."""
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _RESET)
