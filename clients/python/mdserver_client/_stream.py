"""A stream: one WebSocket at a time, connected anew when it is lost.

It has no task of its own: whoever iterates reads the socket. So a loop that is cancelled or left takes everything with
it, and one that is slow makes the server wait or conflate, not memory grow.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import monotonic

import anyio
import msgspec

from ._resumption import Request, Resumption
from ._websocket import WebSocket, close_all, open_websocket
from .errors import ConnectionFailed, MdserverError, NotAuthenticated, ProtocolViolation, Refused
from .messages import Ack, Message, RefusedResult, ServerError, Status, decode_messages
from .records import Candle, Gap, OrderBook, Position, Record, Tick, Trade

__all__ = ["Stream"]

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
PING_S = 15.0
"""Without a sign of life for this long the client asks for one, and after twice as long it connects anew."""
HISTORY_WAIT_S = 15.0
"""For a server that has just started, until its history is there."""
HISTORY_RETRY_S = 1.0
GARBAGE_IN_A_ROW = 5
DROP_S = 2.0

_RECORDS = frozenset((Tick, Trade, Candle, OrderBook, Gap))
_KEY_CODES = (401, 402, 404)
_PASSING_CODES = (406, 407, 410, 429, 500)
_encode = msgspec.json.Encoder().encode


class Stream:
    """An endless stream of records: iterate over it, or over its :meth:`batches`; for one task at a time.

    Leaving the loop ends the connection. ``async with`` does so too, and says goodbye to the server.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        tls: ssl.SSLContext | None,
        resumption: Resumption,
        abandoned: list[WebSocket],
        *,
        skip_refused: bool = False,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self.refused: list[RefusedResult] = []
        """The symbols and types that the server refused, with ``skip_refused``."""
        self._url = url
        self._key = key
        self._tls = tls
        self._resumption = resumption
        self._abandoned = abandoned
        self._skip_refused = skip_refused
        self._on_status = on_status or (lambda status: None)
        self._websocket: WebSocket | None = None
        self._pending: list[Record] = []
        self._ready: list[Record] = []
        self._at = 0
        self._failure: MdserverError | None = None
        self._reading = False
        self._closed = False
        self._was_connected = False
        self._attempt = 0
        self._garbage = 0
        self._heard_s = self._pinged_s = 0.0
        self._history_until_s: float | None = None
        self._retry_at_s = 0.0

    @property
    def position(self) -> Position:
        """The last record of each topic: as ``since`` it lets another stream begin just behind.

        Of what the loop was handed: within a loop over single records, the whole batch that the record is of.
        """
        return self._resumption.position

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Record:
        if self._at >= len(self._ready):
            self._ready, self._at = await self._next_batch(), 0
        record = self._ready[self._at]
        self._at += 1
        return record

    def batches(self) -> AsyncIterator[list[Record]]:
        """Iterate over lists of records: all that has come since the one before."""
        return _Batches(self)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream; also when cancelled its socket is closed when this returns."""
        self._closed = True
        await self._drop()

    def __del__(self) -> None:
        # A loop was left that held the only reference: nothing can be awaited here, and the server is to know at once.
        websocket = getattr(self, "_websocket", None)
        if websocket is not None:
            with suppress(Exception):
                websocket.abandon()
            self._abandoned.append(websocket)

    # -- reading ---------------------------------------------------------------------------------

    async def _next_batch(self) -> list[Record]:
        if self._reading:
            raise RuntimeError("this stream is read by another task already; each needs a stream of its own")
        self._reading, succeeded = True, False
        try:
            while not self._pending:
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    raise StopAsyncIteration
                await self._read_once()
            succeeded = True
        except MdserverError as error:
            self._failure = error
            raise
        finally:
            self._reading = False
            if not succeeded:  # cancelled, perhaps: iterated over again, it connects anew and resumes
                with anyio.move_on_after(DROP_S, shield=True):
                    await self._drop()
        batch, self._pending = self._pending, []
        self._attempt = self._garbage = 0
        return batch

    async def _read_once(self) -> None:
        """Add the records of one read, perhaps none, to those that wait for the loop; deal with passing faults."""
        try:
            if self._websocket is None:
                await self._connect()
            await self._receive()
        except ProtocolViolation as error:
            self._garbage += 1
            if self._garbage >= GARBAGE_IN_A_ROW:
                raise
            await self._pause(error)
        except ConnectionFailed as error:
            if not self._was_connected:
                raise
            await self._pause(error)

    async def _connect(self) -> None:
        await close_all(self._abandoned)
        self._websocket = await open_websocket(self._url, self._key, self._tls)
        self._heard_s = self._pinged_s = monotonic()
        self._history_until_s = None

    async def _receive(self) -> None:
        websocket = self._websocket
        assert websocket is not None  # noqa: S101 - connected before
        payloads = None
        if self._wait_s() > 0:
            with anyio.move_on_after(self._wait_s()):
                payloads = await websocket.receive()
        if payloads is None:
            await self._on_silence(websocket)
            return
        self._heard_s = monotonic()
        run: list[Record] = []
        for message in decode_messages(payloads):
            if message.__class__ in _RECORDS:
                run.append(message)
                continue
            self._pending += self._resumption.received(run)
            run = []
            try:
                await self._handle(websocket, message)
            except MdserverError as error:
                if not self._pending or isinstance(error, ConnectionFailed):
                    raise
                self._failure = error  # once the loop has had what came before
                return
        self._pending += self._resumption.received(run)

    def _wait_s(self) -> float:
        until_s = max(self._heard_s, self._pinged_s) + PING_S
        if self._resumption.retry:
            until_s = min(until_s, self._retry_at_s)
        return max(0.0, until_s - monotonic())

    async def _on_silence(self, websocket: WebSocket) -> None:
        now_s = monotonic()
        if self._resumption.retry and now_s >= self._retry_at_s:
            if self._history_until_s is not None and now_s < self._history_until_s:
                await self._send(websocket, self._resumption.again())
            else:
                self._history_until_s = None
                self._resumption.give_up()
        elif now_s >= self._heard_s + 2 * PING_S:
            raise ConnectionFailed(f"nothing heard for {now_s - self._heard_s:.0f} s")
        elif now_s >= self._heard_s + PING_S:
            self._pinged_s = now_s
            await self._send(websocket, [{"action": "ping"}])

    async def _handle(self, websocket: WebSocket, message: Message) -> None:
        if isinstance(message, Ack):
            self._on_ack(message)
        elif isinstance(message, ServerError):
            self._on_error(message)
        elif isinstance(message, Status):
            if message.epoch is not None:
                self._was_connected = True
                await self._send(websocket, self._resumption.connected(message))
                message = Status(
                    message.message, "connected", None, message.epoch, message.time, message.server
                )
            elif message.message == "replay complete":
                self._history_until_s = None
            self._on_status(message)

    async def _send(self, websocket: WebSocket, requests: list[Request]) -> None:
        for request in requests:
            await websocket.send(_encode(request))

    def _on_ack(self, ack: Ack) -> None:
        refused = self._resumption.acknowledged(ack)
        self.refused += refused
        if refused and not self._skip_refused:
            one = refused[0]
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise Refused(f"{one.type} of {one.symbol} is refused: {one.message}{more}", one.code, refused)

    def _on_error(self, error: ServerError) -> None:
        text = f"{error.code}: {error.message}"
        if self._resumption.must_do_without(error):
            raise ConnectionFailed(text, error.code)
        if self._resumption.failed(error):
            if not self._resumption.retry:
                return
            self._retry_at_s = monotonic() + HISTORY_RETRY_S
            self._history_until_s = self._history_until_s or monotonic() + HISTORY_WAIT_S
        elif error.code in _KEY_CODES:
            raise NotAuthenticated(text, error.code)
        elif error.code in _PASSING_CODES:
            raise ConnectionFailed(f"the server says {text}", error.code)
        else:
            raise Refused(text, error.code)

    async def _pause(self, error: MdserverError) -> None:
        """Let the connection go, and wait before the next one."""
        await self._drop()
        self._on_status(Status(str(error), "disconnected"))
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._attempt, 10), LONGEST_PAUSE_S)
        self._attempt += 1
        await anyio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - so that not all clients come at once

    async def _drop(self) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            await websocket.aclose()


class _Batches:
    """The batches of a stream; an object and no generator, so that leaving the loop ends the stream at once."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> list[Record]:
        return await self._stream._next_batch()  # noqa: SLF001 - of this module
