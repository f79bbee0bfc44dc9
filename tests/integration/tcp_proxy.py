"""A way from one process to another that can be cut: refused, or silent as behind a cable that was pulled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

__all__ = ["TcpProxy"]

CHUNK = 65_536
_CUT = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class TcpProxy:
    """Listens on a port of loopback and passes on all bytes to where ``connect`` leads.

    Silent, it takes connections and bytes and holds them; made open again, it delivers them late, as TCP does.
    """

    def __init__(self, connect: Callable[[], Awaitable[trio.SocketStream]]) -> None:
        self.port = 0
        self._connect = connect
        self._pairs: set[trio.CancelScope] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self._accepting: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Pass on until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self._listen()
            task_status.started()
            await trio.sleep_forever()

    def refuse(self) -> None:
        """End all connections, and let nobody connect."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        for pair in self._pairs:
            pair.cancel()

    def silence(self) -> None:
        """Pass on nothing more; connections seem to stand, new ones too."""
        self._flowing = trio.Event()

    async def open(self) -> None:
        """Pass on everything again."""
        self._flowing.set()
        if self._accepting is None:
            await self._listen()

    async def _listen(self) -> None:
        assert self._nursery is not None
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._accepting = await self._nursery.start(self._accept, listeners)

    async def _accept(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[trio.CancelScope]
    ) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.serve_listeners(self._pass_on, listeners, handler_nursery=self._nursery)

    async def _pass_on(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, suppress(*_CUT):
            self._pairs.add(scope)
            try:
                await self._flowing.wait()
                async with near, await self._connect() as far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, nursery.cancel_scope)
                    nursery.start_soon(self._pump, far, near, nursery.cancel_scope)
            finally:
                self._pairs.discard(scope)
                await trio.aclose_forcefully(near)

    async def _pump(self, from_: trio.SocketStream, to: trio.SocketStream, ended: trio.CancelScope) -> None:
        with suppress(*_CUT):
            while data := await from_.receive_some(CHUNK):
                await self._flowing.wait()
                await to.send_all(data)
        await self._flowing.wait()
        ended.cancel()
