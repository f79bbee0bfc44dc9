"""Which way bytes take to a client, and that the server's layers still allow the fast one."""

from __future__ import annotations

import json

import trio
import trio.testing

from mdserver.metrics import Metrics
from mdserver.model import Tick
from mdserver.web.stream.sink import AsgiSink, BaseSink, DirectSink

from .conftest import open_client, open_stream_server


async def test_a_plain_connection_is_written_to_directly() -> None:
    """Pins the chain of Hypercorn's objects that leads from a handler to its socket."""
    async with open_stream_server() as server, open_client(server.url) as client:
        (session,) = server.clients.sessions
        assert isinstance(session.sink, DirectSink)
        assert session.sink._fd == session.sink._tcp.stream.socket.fileno()
        # the server's own output goes through the same queue
        await client.connection.ping(b"x")
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_the_descriptor_is_forgotten_before_it_is_closed() -> None:
    async with open_stream_server() as server:
        async with open_client(server.url):
            (session,) = server.clients.sessions
            assert session.sink._fd > 0
        with trio.fail_after(30):
            while server.clients.sessions:
                await trio.sleep(0.01)
        assert session.sink._fd == -1
        session.sink.write(b"\x81\x01x")  # reaches nobody, raises nothing


class HalfSink(BaseSink):
    """Sends half of what it gets, and the rest when the test lets it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery.start_soon, 1 << 20, Metrics(), lambda: None)
        self.sent: list[bytes] = []
        self.ready = trio.Event()

    def _send_now(self, frames: bytes) -> bytes:
        half = len(frames) // 2
        self.sent.append(frames[:half])
        return frames[half:]

    async def _send_rest(self, data: bytes) -> None:
        await self.ready.wait()
        self.sent.append(data)


async def test_nothing_follows_a_frame_of_which_only_half_went_out() -> None:
    """A close frame after it would be read as part of it."""
    async with trio.open_nursery() as nursery:
        sink = HalfSink(nursery)
        sink.write(b"\x81\x04abcd")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not sink.behind
    sink.write_last(b"\x88\x00")
    assert sink.sent == [b"\x81\x04a"]


async def test_a_frame_that_went_out_whole_is_followed_by_the_close() -> None:
    async with trio.open_nursery() as nursery:
        sink = HalfSink(nursery)
        sink.write(b"\x81\x04abcd")
        sink.ready.set()
        await sink.drained()
        sink.write_last(b"\x88\x00")
        await sink.drained()
    assert sink.sent == [b"\x81\x04a", b"bcd", b"\x88", b"\x00"]


async def test_another_server_gets_plain_messages() -> None:
    """The test client stands for TLS, HTTP/2, and whatever else has no socket of ours."""
    async with open_stream_server() as server:
        async with server.app.test_client().websocket("/stream") as client:
            hello = json.loads(await client.receive())
            assert hello["type"] == "status"
            (session,) = server.clients.sessions
            assert isinstance(session.sink, AsgiSink)
            await client.send(json.dumps({"action": "subscribe", "symbols": ["EURUSD"]}))
            assert json.loads(await client.receive())["type"] == "ack"
            await trio.sleep(0.05)
            for n in range(1, 501):
                server.brokers["one"].publish(Tick("EURUSD", 1_710_918_000_000_000 + n, 1.1, 1.2))
                if n % 50 == 0:
                    await trio.sleep(0.01)
            last = skipped = 0
            with trio.fail_after(30):
                while last < 500:
                    message = json.loads(await client.receive())
                    if message["type"] == "tick":
                        skipped += message.get("conflated", 0)
                        assert message["seq"] == last + 1 + message.get("conflated", 0)
                        last = message["seq"]
        with trio.fail_after(30):
            while server.clients.sessions:
                await trio.sleep(0.01)
