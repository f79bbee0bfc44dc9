"""A TCP stream whose reads cost less than trio's own."""

from __future__ import annotations

import os

import trio

__all__ = ["PromptSocketStream"]

READ_BYTES = 64 * 1024


class PromptSocketStream(trio.abc.Stream):
    """Waits first and then reads once; everything else is as in :class:`trio.SocketStream`.

    :class:`trio.SocketStream` tries to read first. If messages arrive one by one that attempt always fails, and costs
    an exception and two checkpoints.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fileno = stream.socket.fileno

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them, at most ``max_bytes``; empty at the end of the stream."""
        descriptor = self._fileno()
        while True:
            if descriptor < 0:
                raise trio.ClosedResourceError("this socket was already closed")
            await trio.lowlevel.wait_readable(descriptor)
            # If the socket was closed since the wake-up, its number may already belong to another file.
            if self._fileno() != descriptor:
                raise trio.ClosedResourceError("this socket was closed by another task")
            try:
                return os.read(descriptor, max_bytes or READ_BYTES)
            except BlockingIOError:
                continue  # a spurious wake-up
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending might not block."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()
