"""In which bytes a client gets what it is sent: format, times, several records in one frame, by the URL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection, connect_websocket_url

from mdserver.model import OrderBook, Record, Tick, Trade
from mdserver.protocol.times import TIMES, Times

from .conftest import StreamServer, http_get, open_stream_server
from .event_source import open_events

T0 = 1_710_918_000_123_456
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec_WebSocket_Version": "13",
}
TYPES = ("tick", "trade", "orderbook")


def tick(n: int, symbol: str = "EURUSD") -> Tick:
    return Tick(symbol, T0 + n, 1.5, 2.0)


class FormClient:
    """A client that takes messages in any form; ``frames`` are the contents of the frames so far."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.frames: list[Any] = []
        self._waiting: list[Any] = []

    async def get(self) -> Any:
        while not self._waiting:
            with trio.fail_after(30):
                raw = await self.connection.get_message()
            self.frames.append(json.loads(raw) if isinstance(raw, str) else msgspec.msgpack.decode(raw))
            self._waiting += self.frames[-1] if isinstance(self.frames[-1], list) else [self.frames[-1]]
        return self._waiting.pop(0)

    async def next_of(self, *kinds: str) -> Any:
        while True:
            message = await self.get()
            if message["type"] in kinds:
                return message

    async def send(self, message: Any, *, packed: bool = False) -> None:
        encode = msgspec.msgpack.encode if packed else json.dumps
        await self.connection.send_message(encode(message))

    async def active(self, *symbols: str, packed: bool = False, **fields: Any) -> Any:
        await self.send({"action": "subscribe", "symbols": list(symbols), **fields}, packed=packed)
        ack = await self.next_of("ack")
        while any(row["status"] == "pending" for row in ack["results"]):
            ack = await self.next_of("ack")
        return ack


@asynccontextmanager
async def open_form(server: StreamServer, query: str) -> AsyncIterator[FormClient]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            connection = await connect_websocket_url(nursery, f"{server.url}?{query}")
        try:
            yield FormClient(connection)
            with trio.move_on_after(1):
                await connection.aclose()
        finally:
            await trio.aclose_forcefully(connection._stream)
        nursery.cancel_scope.cancel()


def publish(server: StreamServer, *records: Record) -> None:
    server.brokers["one"].publish(*records)


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("times", TIMES)
async def test_every_time_has_the_form_that_was_asked_for(form: str, times: Times) -> None:
    show, kind = TIMES[times], type(TIMES[times](T0))
    async with open_stream_server() as server, open_form(server, f"format={form}&times={times}") as client:
        assert type((await client.get())["time"]) in (kind, int if times in ("s", "ms") else kind)
        await client.active("EURUSD", types=["tick", "heartbeat"], received=True)
        publish(server, tick(0))
        host = server.brokers["one"].host
        assert host is not None
        host.gap("missed")
        publish(server, tick(876_544))
        first, gap, second = [await client.next_of("tick", "gap") for _ in range(3)]
        assert (first["time"], second["time"]) == (show(T0), show(T0 + 876_544))
        assert (gap["from"], gap["to"]) == (show(T0), show(T0 + 876_544))
        assert type(first["received"]) is kind
        beat = await client.next_of("heartbeat")
        await client.send({"action": "ping"})
        pong = await client.next_of("pong")
        for moment in (beat["time"], pong["time"]):
            assert (moment > first["received"]) if times == "iso" else (moment - first["received"] >= 0)


async def test_messagepack_brings_the_same_maps_in_binary_frames() -> None:
    async with (
        open_stream_server(types=TYPES) as server,
        open_form(server, "") as plain,
        open_form(server, "format=msgpack") as packed,
    ):
        hello, packed_hello = await plain.get(), await packed.get()
        assert packed_hello.keys() == hello.keys()
        request = {"types": list(TYPES), "received": True, "depth": 2, "id": 7}
        for client in (plain, packed, plain, packed):  # what is active already is answered once
            await client.active("EURUSD", **request)
        plain.frames.clear()
        packed.frames.clear()
        book = OrderBook("EURUSD", T0, ((1.5, 2.0), (1.25, 1.0), (1.0, 1.0)), ((2.5, 2.0),), "snapshot", "25")
        publish(server, tick(0), Trade("EURUSD", T0, 1.1, 3.0, "buy", "x1"), book)
        for client in (plain, packed):
            await client.send({"action": "list", "id": "l"})
            await client.send({"action": "nonsense", "id": 2})
            await client.next_of("error")
        assert packed.frames == plain.frames
        assert {message["type"] for message in plain.frames} == {*TYPES, "ack", "error"}
        assert {type(message["type"]) for message in packed.frames} == {str}
        # what is added to records that are framed already
        again = {"action": "subscribe", "symbols": ["EURUSD"], "types": ["tick"], "snapshot": True}
        await packed.send(again, packed=True)
        assert (await packed.next_of("tick"))["snapshot"] is True


async def test_a_packed_candle_has_room_for_what_is_added() -> None:
    """A map of 15 fields and one more has another head than one of 15."""
    from mdserver.model import Candle, Published, Topic
    from mdserver.protocol.encoding import encoding, mark, wire_of
    from mdserver.protocol.server_frames import payload_of

    candle = Candle("EURUSD", T0, "1m", 1.0, 2.0, 0.5, 1.5, 3.0, 4, True, True)
    packed = encoding(wire_of("msgpack"), received=True)
    frame = packed.frame(Published(Topic("one", "EURUSD", "candle", "1m"), 1, candle, T0))
    fields = msgspec.msgpack.decode(payload_of(frame))
    assert len(fields) == 15
    one_more = mark(frame, "snapshot", True)
    two_more = mark(one_more, "conflated", 70_000)
    assert msgspec.msgpack.decode(payload_of(one_more)) == fields | {"snapshot": True}
    assert msgspec.msgpack.decode(payload_of(two_more)) == fields | {"snapshot": True, "conflated": 70_000}


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_with_batch_several_records_share_a_frame_in_their_order(form: str) -> None:
    async with (
        open_stream_server() as server,
        open_form(server, f"batch=true&format={form}") as batched,
        open_form(server, f"format={form}") as single,
    ):
        for client in (batched, single):
            await client.active("EURUSD", types=["tick", "trade"])
            client.frames.clear()
        records = [record for n in range(1, 51) for record in (tick(n), Trade("EURUSD", T0 + n, 1.5, 1.0))]
        publish(server, *records)
        publish(server, tick(51))
        for client in (batched, single):
            while (await client.next_of("tick"))["seq"] < 51:
                pass
        assert len(single.frames) == 101
        assert batched.frames == [single.frames[:100], single.frames[100]]


async def test_an_array_is_bounded() -> None:
    async with open_stream_server() as server, open_form(server, "batch=true") as client:
        await client.active("EURUSD")
        client.frames.clear()
        publish(server, *[tick(n) for n in range(1, 3_001)])
        while (await client.next_of("tick"))["seq"] < 3_000:
            pass
        assert [message["seq"] for frame in client.frames for message in frame] == list(range(1, 3_001))
        assert max(len(json.dumps(frame, separators=(",", ":"))) for frame in client.frames) < 66_000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not MessagePack"),
        (b"\xc1", "not MessagePack"),
        (b"\x93\x01", "not MessagePack"),
        (b"\x91" * 5_000, "not MessagePack: nested too deeply"),
        (msgspec.msgpack.encode([1]), "expected a JSON object, got a list"),
        (msgspec.msgpack.encode({1: 2, b"x": 3}), "action: expected one of "),
        (b"\x81\x81\x01\x02\x03", ""),
        (msgspec.msgpack.encode({"action": b"ping"}), "action: expected one of "),
        (msgspec.msgpack.encode({"action": "ping", "id": b"x" * 9, "x": float("nan")}), '"x": unknown field'),
    ],
    ids=range(9),
)
async def test_bytes_that_are_no_request_are_400(raw: bytes, message: str) -> None:
    async with open_stream_server() as server, open_form(server, "format=msgpack") as client:
        await client.connection.send_message(raw)
        error = await client.next_of("error")
        assert error["code"] == 400
        assert error["message"].startswith(message)
        await client.send({"action": "ping", "id": 1}, packed=True)
        assert (await client.next_of("pong"))["id"] == 1


@pytest.mark.parametrize("path", ["", "stream"])
@pytest.mark.parametrize(
    ("query", "param", "detail"),
    [
        ("time=us", "time", "unknown parameter; did you mean times? known: format, times, batch"),
        ("key=x", "key", "unknown parameter"),
        ("times=ns", "times", "expected one of s, ms, us, iso"),
        ("times=us&times=us", "times", "given more than once"),
        ("format=xml", "format", "expected json or msgpack"),
        ("batch=1", "batch", "expected false or true"),
    ],
)
async def test_a_url_that_asks_for_something_else_is_refused(
    path: str, query: str, param: str, detail: str
) -> None:
    async with open_stream_server() as server:
        answer = await http_get(server.port, f"/{path}?{query}", **HANDSHAKE)
        problem = answer.json()
        assert (answer.status, problem["code"], problem["param"]) == (400, "invalid_parameter", param)
        assert detail in problem["detail"]
        assert not server.clients.sessions
    async with open_stream_server() as server, open_form(server, "_=1&utm_source=x&times=") as client:
        assert (await client.get())["type"] == "status"


async def test_server_sent_events_have_times_too() -> None:
    async with open_stream_server() as server, open_events(server.port, "symbols=EURUSD&times=us") as events:
        assert isinstance((await events.get())["time"], int)
        while (await events.get_type("ack"))["results"][0]["status"] != "active":
            pass
        publish(server, tick(1))
        assert (await events.get_type("tick"))["time"] == T0 + 1
        refused = await http_get(server.port, "/api/stream?symbols=EURUSD&times=x")
        assert (refused.status, refused.json()["param"]) == (400, "times")
