"""Our own connection to Redis where the other side breaks off, answers in halves, late, or says more than was asked."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from mdserver.bus.engine import BusUnavailable, Position
from mdserver.bus.redis_engine import open_redis

Serve = Callable[[trio.SocketStream], Awaitable[None]]

WELCOME = b"+OK\r\n"
"""The answer to our name."""


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Serve each connection so; yield the URL. Who serves may wait for ever."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def reset(stream: trio.SocketStream) -> None:
    """Close a connection so that the other side finds it reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("said", [None, b"", WELCOME, WELCOME + b"$3\r\n1"])
async def test_a_connection_that_is_reset_is_said(said: bytes | None) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        if said is not None:
            await stream.receive_some()
            await stream.send_all(said)
            if said:
                await stream.receive_some()
        reset(stream)

    async with serving(serve) as url, open_redis(url) as engine:
        with pytest.raises(
            BusUnavailable, match=r"127\.0\.0\.1:\d+ cannot be reached: .*(reset|pipe|without)"
        ):
            await engine.append("s", Position(1, 0), [b"frame"])
