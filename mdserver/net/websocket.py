"""A WebSocket client for plugins: a thin trio shell over :mod:`.frame_reader` and :mod:`.handshake`.

Made for receiving: one :meth:`WebSocket.receive` returns all messages that one read of the socket completes, so a burst
costs one await. There is no compression and there are no subprotocols.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from time import time_ns
from urllib.parse import urlsplit

import trio

from ..errors import MdserverError, Rejected, Silent, Unavailable
from . import frame_reader as frames
from .handshake import Handshake, HandshakeError, Refused
from .http_errors import RETRY_STATUSES, connect_failure, is_web_page, page_error, status_error
from .prompt_stream import PromptSocketStream

__all__ = ["WebSocket", "WebSocketClosed", "open_websocket"]

_READ_BYTES = 64 * 1024
_SEND_TIMEOUT_S = 10.0
_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_SILENCE_CHECKS = 8
"""Checks of a connection's silence within ``silence_s``: a silence is noticed an eighth of it late at most."""
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


class WebSocketClosed(Unavailable):
    """The server has closed the connection with ``code`` (1005: it gave none) and ``reason``."""

    def __init__(self, message: str, *, code: int, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@asynccontextmanager
async def open_websocket(
    url: str,
    *,
    connect_timeout_s: float = 10.0,
    close_timeout_s: float = 1.0,
    silence_s: float | None = None,
    max_message_bytes: int = 4 * 1024 * 1024,
    headers: Sequence[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> AsyncIterator[WebSocket]:
    """Connect to a ``ws://`` or ``wss://`` URL; close the connection properly at the end of the block.

    ``connect_timeout_s`` bounds everything up to the accepted handshake, and ``close_timeout_s`` the closing handshake
    (even if cancelled). ``silence_s``: see :meth:`WebSocket.receive`. Raises Rejected for an unusable URL or an HTTP
    status below 500 that is not in ``retry_statuses``, and Unavailable for every other failure.
    """
    try:
        with trio.fail_after(connect_timeout_s):
            stream = await _connect(url, ssl_context)
            websocket = WebSocket(url, stream, max_message_bytes=max_message_bytes)
            try:
                await websocket._shake_hands(headers, retry_statuses)  # noqa: SLF001
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError as error:
        raise Unavailable(f"{url}: no WebSocket within {connect_timeout_s:g} s") from error
    async with _watched(websocket, silence_s):
        try:
            yield websocket
        finally:
            await websocket.aclose(timeout_s=close_timeout_s)  # noqa: ASYNC102 - shields itself, with this deadline


@asynccontextmanager
async def _watched(websocket: WebSocket, silence_s: float | None) -> AsyncIterator[None]:
    """Watch for silence during the block. The block's errors propagate unchanged, not in the nursery's group."""
    if silence_s is None:
        yield
        return
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(websocket._watch_silence, silence_s)  # noqa: SLF001
        try:
            yield
        except BaseException as error:  # noqa: BLE001, ASYNC103 - raised below
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # avoids a reference cycle between the error and its traceback


async def _connect(url: str, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise Rejected(f"{url}: {error}; expected ws://HOST… or wss://HOST…") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise Rejected(f"{url}: expected ws://HOST… or wss://HOST…")
    try:
        tcp = await trio.open_tcp_stream(host, parts.port or _DEFAULT_PORTS[parts.scheme])
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: {connect_failure(url, error) or f'cannot connect: {error}'}") from error
    stream = PromptSocketStream(tcp)
    if parts.scheme == "ws":
        return stream
    secure = trio.SSLStream(
        stream,
        ssl_context or ssl.create_default_context(),
        server_hostname=host,
        https_compatible=True,
    )
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        why = (
            connect_failure(url, error) or f"the TLS handshake with {host} failed: {error.__cause__ or error}"
        )
        raise Unavailable(f"{url}: {why}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


class WebSocket:
    """An open connection, made by :func:`open_websocket`. Only one task may receive; any may send."""

    def __init__(self, url: str, stream: trio.abc.Stream, *, max_message_bytes: int) -> None:
        self.url = url
        self.received_us = 0
        """When the bytes of the messages last returned by :meth:`receive` were read, in Unix microseconds."""
        self._stream = stream
        self._frames = frames.FrameReader(max_message_bytes=max_message_bytes)
        self._early = b""
        self._send_lock = trio.Lock()
        self._can_send = True
        self._close_sent = False
        self._lost_with_messages: Unavailable | None = None
        self._cut_for: Unavailable | None = None
        self._reading = False
        self._reads = 0

    async def _shake_hands(self, headers: Sequence[tuple[str, str]], retry_statuses: Collection[int]) -> None:
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            handshake = Handshake(parts.netloc.rpartition("@")[2], target, headers)
        except ValueError as error:
            raise Rejected(f"{self.url}: {error}") from error
        try:
            await self._stream.send_all(handshake.request)
            while (outcome := handshake.feed(bytes(await self._stream.receive_some(_READ_BYTES)))) is None:
                pass
        except HandshakeError as error:
            raise Unavailable(f"{self.url}: {error}") from error
        except _LOST as error:
            raise self._lost(error) from error
        if isinstance(outcome, Refused):
            page = is_web_page(outcome.headers.get("content-type", ""), outcome.body.encode())
            if (
                outcome.status == 200 and page
            ):  # not of the venue: what stands in between may let us through later
                raise page_error(self.url, outcome.body)
            raise status_error(self.url, outcome.status, outcome.headers, outcome.body, retry_statuses)
        self._early = outcome.trailing

    async def receive(self) -> list[bytes]:
        """Wait for bytes and return the messages that they complete; possibly none, for example after a ping.

        Text is valid UTF-8, still encoded. The newest ping is answered with its own payload. If ``silence_s`` is set, a
        ping is sent after half of it without a byte, and Unavailable is raised after all of it (an eighth late at
        most). Unavailable is also raised if the connection is lost or the server breaks the protocol. If the server
        closes the connection, the messages before its close frame are returned first; then WebSocketClosed is raised.
        """
        reader = self._frames
        if self._lost_with_messages is not None:
            raise self._lost_with_messages
        if reader.close is not None or reader.failure is not None:
            raise await self._ended()
        if self._early:
            data, self._early = self._early, b""
        else:
            data = await self._read()
        self.received_us = time_ns() // 1000
        seen = reader.controls
        messages = reader.feed(data)
        if reader.controls != seen or reader.failure is not None:
            try:
                await self._answer_controls()
            except Unavailable as error:
                if not messages:
                    raise
                self._lost_with_messages = error  # the messages before the loss are returned first
            if not messages and (reader.close is not None or reader.failure is not None):
                raise await self._ended()
        return messages

    async def _read(self) -> bytes:
        self._reading = True
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except _LOST as error:
            raise self._cut_for or self._lost(error) from error
        finally:
            self._reading = False
        if not data:
            self._can_send = False
            raise self._cut_for or Unavailable(f"{self.url}: the connection ended without a close frame")
        self._reads += 1
        return bytes(data)

    async def _watch_silence(self, silence_s: float) -> None:
        """Ping after half of ``silence_s`` without a byte, and cut the connection after all of it.

        There is one timer for the connection, because a cancel scope around each read would cost more than the read.
        Time outside :meth:`receive` does not count.
        """
        seen, since, asked = self._reads, trio.current_time(), False
        while True:
            await trio.sleep(silence_s / _SILENCE_CHECKS)
            now = trio.current_time()
            if self._reads != seen or not self._reading:
                seen, since, asked = self._reads, now, False
            elif now - since >= silence_s:
                text = f"{self.url}: nothing received for {silence_s:g} s, not even a pong"
                await self._cut(Silent(text))
                return
            elif now - since >= silence_s / 2 and not asked:
                asked = True
                try:
                    await self.ping()
                except Unavailable as error:
                    await self._cut(error)
                    return

    async def _cut(self, why: Unavailable) -> None:
        """Make :meth:`receive` raise ``why``, in the present call or the next."""
        self._cut_for = why
        self._can_send = False
        await trio.aclose_forcefully(self._stream)

    async def _answer_controls(self) -> None:
        reader = self._frames
        if reader.ping is not None and reader.close is None and reader.failure is None:
            payload, reader.ping = reader.ping, None
            await self._send(frames.encode_frame(frames.PONG, payload))

    async def _ended(self) -> MdserverError:
        """Answer a server that has closed or failed with a close frame, and return the error to raise."""
        failure, close = self._frames.failure, self._frames.close
        if failure is not None:
            await self._send_close(failure.code, failure.reason)
            return Unavailable(f"{self.url}: the server broke the WebSocket protocol: {failure.reason}")
        if close is None:
            raise AssertionError("neither closed nor failed")
        # The answer carries no code, because codes such as 1006 must not be sent.
        await self._send_close(frames.NO_STATUS)
        code, reason = close
        text = f"{self.url}: the server closed the connection: {code} {reason}".rstrip()
        return WebSocketClosed(text, code=code, reason=reason)

    async def send(self, text: str | bytes) -> None:
        """Send one text message (``bytes``: already UTF-8).

        Raises Unavailable if the connection is closed or lost. If this call is cancelled in the middle of a frame,
        nothing more can be sent.
        """
        await self._send(frames.encode_frame(frames.TEXT, text.encode() if isinstance(text, str) else text))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping of at most 125 bytes; its pong only counts as received traffic."""
        await self._send(frames.encode_frame(frames.PING, payload))

    async def _send(self, data: bytes) -> None:
        async with self._send_lock:
            if not self._can_send:
                raise Unavailable(f"{self.url}: the connection is closed for sending")
            # Nothing may follow an incomplete frame, so sending is closed until this completes.
            self._can_send = False
            try:
                with trio.fail_after(_SEND_TIMEOUT_S):
                    await self._stream.send_all(data)
            except trio.TooSlowError as error:
                raise Unavailable(f"{self.url}: the server does not read what we send") from error
            except _LOST as error:
                raise self._lost(error) from error
            self._can_send = True

    async def _send_close(self, code: int, reason: str = "") -> None:
        if self._close_sent or not self._can_send:
            return
        self._close_sent = True
        try:
            await self._send(frames.encode_close(code, reason))
        except Unavailable:
            # The connection is being closed anyway, and the caller has a better error to report.
            self._can_send = False
        self._can_send = False

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout_s: float = 1.0) -> None:
        """Send a close frame, wait up to ``timeout_s`` for the server's, then close the socket. Never raises.

        Runs until its deadline even if cancelled. No other task may be in :meth:`receive`.
        """
        with trio.move_on_after(timeout_s) as scope:
            scope.shield = True
            await self._send_close(code, reason)
            try:
                while self._close_sent and self._frames.close is None and self._frames.failure is None:
                    self._frames.feed(await self._read())
            except Unavailable:
                # The server ended the connection without a close frame: that closes it too.
                self._can_send = False
        self._can_send = False
        await trio.aclose_forcefully(self._stream)

    def _lost(self, error: BaseException) -> Unavailable:
        self._can_send = False
        return Unavailable(f"{self.url}: connection lost: {error.__cause__ or error or type(error).__name__}")
