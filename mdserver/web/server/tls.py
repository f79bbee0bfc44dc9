"""TLS over a socket, so that a client's records can be encrypted and written in one go, without waiting.

With trio's SSLStream a direct write could overtake its ``send_all``, so that records would be sent in another order
than they were encrypted in. Here all encrypted bytes are sent in one place: in :meth:`TlsStream.send_all` until a sink
takes over the write side, and in the sink afterwards.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import trio

from ...config import TlsConfig
from ...errors import ConfigError
from ...os_errors import explain

__all__ = ["Certificate", "TlsStream"]

READ_BYTES = 64 * 1024
FAREWELL_S = 1.0
"""The time to send the peer the end of the connection."""


class Certificate:
    """The certificate for new connections. Raises ConfigError if the files cannot be used."""

    def __init__(self, files: TlsConfig) -> None:
        self.context = _context(files)

    def load(self, files: TlsConfig) -> None:
        """Read the files again; open connections keep their certificate. After a ConfigError nothing has changed."""
        self.context = _context(files)


def _context(files: TlsConfig) -> ssl.SSLContext:
    for name, path in (("certificate", files.certificate), ("key", files.key)):
        _readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # HTTP/2 has no advantage here, and direct writes to its WebSockets are impossible.
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (ssl.SSLError, ValueError, OSError) as error:
        message = (
            f"server.tls: {files.certificate} and {files.key} are no certificate and its key, PEM: {error}"
        )
        raise ConfigError([message]) from None
    return context


def _readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError([f"server.tls.{name}: {path} cannot be read: {explain(error)}"]) from None


def _no_passphrase() -> bytes:
    raise ValueError("the key has a passphrase, expected one without")


class TlsStream(trio.abc.Stream):
    """The server's end of a TLS connection."""

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport_stream = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = trio.Lock()
        self._taken_over = False

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket beneath."""
        return self.transport_stream.socket

    def selected_alpn_protocol(self) -> str | None:
        """Return what the handshake agreed on."""
        return self._tls.selected_alpn_protocol()

    def take_over(self) -> bool:
        """Let the caller write, who sends what :meth:`encrypt` returns; return False while a write is running."""
        if self._sending.locked() or self._outgoing.pending:
            return False
        self._taken_over = True
        return True

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Return the bytes to write next, in this order. Raises ssl.SSLError once the connection has failed."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._outgoing.read()

    async def do_handshake(self) -> None:
        """Run the TLS handshake. Raises BrokenResourceError if the peer uses no TLS or an unsupported version."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_pending()
                await self._read_more()
            except (ssl.SSLError, ssl.CertificateError) as error:
                await self._send_pending()  # noqa: ASYNC120 - the alert says why; cancelled, nobody waits for the reason
                raise trio.BrokenResourceError(f"no TLS handshake: {error}") from error
            else:
                await self._send_pending()
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return received bytes; empty if the peer has ended the connection, with or without a TLS close."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._tls.read(max_bytes or READ_BYTES)
            except ssl.SSLWantReadError:
                await self._send_pending()
                await self._read_more()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(f"TLS failed: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        async with self._sending:
            try:
                encrypted = self.encrypt(memoryview(data))
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(f"TLS failed: {error}") from error
            await self.transport_stream.send_all(encrypted)

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the connection; the TLS close is sent if the peer reads it at once."""
        try:
            if not self._taken_over and not self._sending.locked():
                with trio.move_on_after(FAREWELL_S):
                    await self._say_farewell()
        finally:
            await self.transport_stream.aclose()

    async def _say_farewell(self) -> None:
        with suppress(ssl.SSLError, ValueError):  # the peer's own is not waited for
            self._tls.unwrap()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it is gone already
            await self._send_pending()

    async def _send_pending(self) -> None:
        """Send TLS messages of the protocol itself; after :meth:`take_over` they are sent with the next record."""
        if not self._outgoing.pending or self._taken_over:
            return
        async with self._sending:
            if not self._taken_over and self._outgoing.pending:
                await self.transport_stream.send_all(self._outgoing.read())

    async def _read_more(self) -> None:
        data = await self.transport_stream.receive_some(READ_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
