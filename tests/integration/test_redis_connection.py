"""Our own connection to Redis where the other side breaks off, answers in halves, late, or says more than was asked."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from coredis import PureToken

from mdserver.bus import redis_engine
from mdserver.bus.engine import START, BusUnavailable, Entry, Position
from mdserver.bus.followed import Followed
from mdserver.bus.names import stream_key
from mdserver.bus.redis_engine import RedisEngine, open_redis
from mdserver.bus.shipper import Shipper
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic

from .redis import running_redis
from .test_bus_engine import TLS, redis_with_tls

Serve = Callable[[trio.SocketStream], Awaitable[None]]

WELCOME = b"+OK\r\n"
"""The answer to our name."""
READ = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nf\r\n$5\r\nframe\r\n"
FOUND = {"s": [Entry(Position(1, 0), b"frame")]}


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Serve each connection so; yield the URL. Who serves may wait for ever."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


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


async def test_an_answer_in_pieces_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver.bus.redis_connection.RECEIVED_BYTES", 1)

    async def serve(stream: trio.SocketStream) -> None:
        for answer in WELCOME, READ, READ:
            await stream.receive_some()
            await stream.send_all(answer)
        await trio.sleep_forever()

    async with serving(serve) as url, open_redis(url) as engine:
        for _ in range(2):
            assert await engine.read({"s": START}, most=1, wait_s=1) == FOUND


STAGES = [(), (WELCOME[:2],), (WELCOME,), (WELCOME, READ[:1]), (WELCOME, READ[:-1])]
"""What Redis has answered when it falls silent."""


@pytest.mark.parametrize("said", STAGES)
@pytest.mark.parametrize("how", ["cancelled", "too late"])
async def test_a_call_that_ends_without_its_answer_leaves_no_descriptor_and_no_answer(
    said: tuple[bytes, ...], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_engine, "CALL_S", 0.05 if how == "too late" else 60)
    silent, connections = trio.Event(), 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        answers = said if connections == 1 else (WELCOME, READ)
        with suppress(trio.BrokenResourceError):  # it was closed meanwhile
            async with stream:
                for answer in answers:
                    await stream.receive_some()
                    await stream.send_all(answer)
                silent.set()
                while await stream.receive_some():
                    pass  # until it is closed
        left.set()

    async with serving(serve) as url, open_redis(url) as engine:
        before, left = descriptors(), trio.Event()
        if how == "cancelled":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: engine.read({"s": START}, most=1, wait_s=1))
                await silent.wait()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        else:
            with pytest.raises(BusUnavailable, match="did not answer within"):
                await engine.read({"s": START}, most=1, wait_s=0)
        with trio.fail_after(5):
            await left.wait()
        assert descriptors() == before
        monkeypatch.setattr(redis_engine, "CALL_S", 5)
        assert await engine.read({"s": START}, most=1, wait_s=1) == FOUND
        assert connections == 2


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_redis_says_unasked_is_nobodys_answer(*, at_once: bool) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        for answer in WELCOME, READ + (STALE if at_once else b""):
            await stream.receive_some()
            await stream.send_all(answer)
        if not at_once:
            await stream.send_all(STALE)
        await trio.sleep_forever()

    async with serving(serve) as url, open_redis(url) as engine:
        assert await engine.read({"s": START}, most=1, wait_s=1) == FOUND
        if not at_once:
            with trio.fail_after(5):
                while engine._idle[0].is_usable:
                    await trio.sleep(0.001)
        assert await engine.read({"s": START}, most=1, wait_s=1) == FOUND


STALE = READ.replace(b"frame", b"stale")


async def test_why_redis_closes_a_connection_is_said() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"-ERR max number of clients reached\r\n")

    async with serving(serve) as url, open_redis(url.replace("//", "//me:word@")) as engine:
        with pytest.raises(BusUnavailable, match="max number of clients reached"):
            await engine.append("s", Position(1, 0), [b"frame"])


async def test_what_is_in_use_at_the_end_is_closed_after_its_use(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        before = descriptors()
        async with trio.open_nursery() as nursery:
            async with open_redis(server.url) as engine:
                async with open_redis(server.url) as other:
                    nursery.start_soon(lambda: engine.read({"s": START}, most=1, wait_s=0.3))
                    while not any(one["cmd"] == "xread" for one in await other._client.client_list()):
                        await trio.sleep(0.001)
                    await engine.append("t", Position(1, 0), [b"x"])  # one that is idle
        assert descriptors() == before


async def _fail_over(engine: RedisEngine, other: RedisEngine, number: int) -> None:
    """Have a follower's read cut off, as when its process takes over, and each third time all connections closed."""

    async def read() -> None:
        with suppress(BusUnavailable):
            await engine.read({"s": Position(number, 9)}, most=1, wait_s=60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with suppress(BusUnavailable):
            await engine.append("s", Position(number, 0), [b"a", b"b"])
        if number % 3 == 0:
            await other._client.client_kill(type_=PureToken.NORMAL, skipme=True)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True])
async def test_no_descriptor_is_left_after_many_changes_of_leaders(
    tmp_path: Path, *, tls: bool, long: bool
) -> None:
    start = redis_with_tls if tls else running_redis
    ca_file = TLS / "localhost.pem" if tls else None
    with start(tmp_path) as server:
        async with (
            open_redis(server.url, ca_file=ca_file) as engine,
            open_redis(server.url, ca_file=ca_file) as other,
        ):
            await other.get("k")
            for number in range(1, 6):
                await _fail_over(engine, other, number)
            before = descriptors()
            for number in range(6, 1_000 if long else 100):
                await _fail_over(engine, other, number)
            assert descriptors() <= before + 1
            clients = [one for one in await other._client.client_list() if one["name"] == "mdserver"]
            assert len(clients) < 8


async def test_each_frame_is_on_the_stream_once_where_redis_answers_after_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_engine, "CALL_S", 0.1)
    topic = Topic("sea", "EURUSD", "tick")
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine, trio.open_nursery() as nursery:
            shipper = Shipper(engine, Metrics(), max_bytes=1 << 30, keep_s=600, keep_bytes=1 << 30)
            shipper.lead("sea", 1, lambda: None)
            await nursery.start(shipper.run)
            number = 0
            for _ in range(5):
                server.send(signal.SIGSTOP)
                for _ in range(120):  # more than are appended at once
                    number += 1
                    shipper.offer([Published(topic, number, Tick("EURUSD", number, 1.0, 1.1))])
                with trio.fail_after(5):
                    while shipper.away is None:
                        await trio.sleep(0.001)
                server.send(signal.SIGCONT)
                with trio.fail_after(10):
                    await shipper.shipped("sea")
            monkeypatch.setattr(redis_engine, "CALL_S", 5)
            found = (await engine.read({stream_key("sea"): START}, most=10_000, wait_s=1))[stream_key("sea")]
            followed = Followed(
                "sea", route=print, on_stored=print, missing=_nothing_is_missing, metrics=Metrics()
            )
            decoded = [followed.decode(entry) for entry in found]
            seqs = [one.seq for batch in decoded if isinstance(batch, list) for one in batch]
            assert seqs == list(range(1, number + 1))
            nursery.cancel_scope.cancel()


async def _nothing_is_missing(*_: object) -> list[Published]:
    return []
