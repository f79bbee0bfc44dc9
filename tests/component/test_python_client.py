"""The Python client alone: its loops, its questions, its tables, and how it ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest
import trio

import mdserver_client
from mdserver.testing.websocket_venue import (
    FakeClient,
    HttpAnswer,
    open_fake_venue,
)
from mdserver_client import _stream

from .conftest import open_stream_server
from .http.conftest import FakeStore, Series
from .misbehaving_server import (
    END,
    HTML,
    OPEN,
    T0,
    FakeServer,
    Outcome,
    fails,
    quick,
    says,
    says_and_resets,
    stream_in_python,
    tick,
)

__all__ = ["quick"]  # a fixture


def sockets() -> int:
    return sum(one.status == "ESTABLISHED" for one in psutil.Process().net_connections("tcp"))


@pytest.fixture(params=["trio", "asyncio"])
def in_loop(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a coroutine function on an event loop."""

    async def run_there(function: Callable[..., Any], *arguments: Any) -> Any:
        if request.param == "trio":
            return await function(*arguments)
        return await trio.to_thread.run_sync(partial(anyio.run, function, *arguments))

    return run_there


async def test_leaving_or_cancelling_a_loop_leaves_no_socket(in_loop: Callable[..., Any]) -> None:
    server = FakeServer(*(says(tick(1)),) * 2)

    async def leave(url: str) -> None:
        async with mdserver_client.connect(url) as client:
            async for _ in client.stream(["EURUSD"]):
                break
            await no_sockets()
            stream = client.stream(["EURUSD"])
            with anyio.move_on_after(0.2):
                async for _ in stream:
                    pass
            await no_sockets()  # though the stream is still there, to be read on
            left.append(len(asyncio_tasks()))

    async def no_sockets() -> None:
        with anyio.move_on_after(5):
            while sockets() > before:
                await anyio.sleep(0.01)
        left.append(sockets())

    def asyncio_tasks() -> set[Any]:
        import asyncio

        try:
            return asyncio.all_tasks() - {asyncio.current_task()}
        except RuntimeError:
            return set()

    left: list[int] = []
    async with open_fake_venue(server):
        before = sockets()
        await in_loop(leave, server.rest_url)
        assert left == [before, before, 0]
        await server.wait_until(lambda: not server.clients)


async def test_a_cancelled_stream_can_be_read_on(in_loop: Callable[..., Any]) -> None:
    server = FakeServer(says(tick(1)), says(tick(2), recovered=True))

    async def read(url: str) -> list[Any]:
        seqs = []
        async with mdserver_client.connect(url) as client, client.stream(["EURUSD"]) as stream:
            with anyio.move_on_after(0.3):
                while True:
                    seqs.append((await anext(stream)).seq)
            seqs.append((await anext(stream)).seq)
            seqs.append(stream.position)
        return seqs

    async with open_fake_venue(server):
        assert await in_loop(read, server.rest_url) == [
            1,
            2,
            {"epoch": "a", "seqs": [("one", "EURUSD", "tick", 2)]},
        ]


async def test_a_dead_connection_is_noticed(
    in_loop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "PING_S", 0.2)

    def go_dark(client: FakeClient, request: dict[str, Any]) -> None:
        says(tick(1))(client, request)
        darkened.append(client)

    darkened: list[FakeClient] = []
    server = FakeServer(go_dark, says(tick(2), recovered=True))

    async def darken() -> None:
        await server.wait_until(lambda: bool(darkened))
        await trio.sleep(0.1)  # until what was sent is out
        darkened[0].go_dark()

    async with open_fake_venue(server), trio.open_nursery() as nursery:
        nursery.start_soon(darken)
        outcome = await in_loop(stream_in_python, server.rest_url, 2, {"symbols": ["EURUSD"]})
    assert outcome == Outcome([tick(1), tick(2)], None)


async def test_history_that_never_comes_is_a_gap(
    in_loop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "HISTORY_WAIT_S", 0.2)

    def away(client: FakeClient, request: dict[str, Any]) -> None:
        says()(client, request)
        fails(410, "this server stores nothing")(client, request)
        server.count += 1
        client.send(tick(5 + server.count))

    class Counting(FakeServer):
        count = 0

    server = Counting(says_and_resets(tick(1)), *[away] * 50)

    async def live() -> None:
        await server.wait_until(lambda: bool(server.past))
        while True:
            await trio.sleep(0.05)
            server.count += 1
            server.push(None, tick(5 + server.count))

    async with open_fake_venue(server), trio.open_nursery() as nursery:
        nursery.start_soon(live)
        outcome = await in_loop(stream_in_python, server.rest_url, 5, {"symbols": ["EURUSD"]})
        nursery.cancel_scope.cancel()
    kinds = [record.get("cause") for record in outcome.records]
    assert kinds == [None, "history_unavailable", None, None, None]
    seqs = [record["seq"] for record in outcome.records[2:]]
    assert seqs == list(range(seqs[0], seqs[0] + 3))


async def test_without_an_event_loop() -> None:
    """Leaving the loop ends the connection and the thread."""
    server = FakeServer(says_and_resets(tick(1), tick(2)), says(tick(3), recovered=True))

    def read() -> list[Any]:
        seqs = []
        with mdserver_client.open_sync(server.rest_url) as client:
            for record in client.stream(["EURUSD"]):
                seqs.append(record.seq)
                if len(seqs) == 3:
                    break
        return seqs

    async with open_fake_venue(server):
        assert await trio.to_thread.run_sync(read) == [1, 2, 3]
        await server.wait_until(lambda: not server.clients)


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (HTML, mdserver_client.ConnectionFailed, None),
        (
            HttpAnswer(200, '{"half":', {"Content-Type": "application/json"}),
            mdserver_client.ConnectionFailed,
            None,
        ),
        (
            HttpAnswer(
                404, {"code": "unknown_symbol", "detail": "no"}, {"Content-Type": "application/problem+json"}
            ),
            mdserver_client.RequestFailed,
            "unknown_symbol",
        ),
        (
            HttpAnswer(
                401, {"code": "unauthorized", "detail": "no"}, {"Content-Type": "application/problem+json"}
            ),
            mdserver_client.NotAuthenticated,
            "unauthorized",
        ),
    ],
)
async def test_questions_that_fail(
    answer: HttpAnswer, error: type[mdserver_client.MdserverError], code: str
) -> None:
    server = FakeServer()
    server.answer = answer
    async with open_fake_venue(server):
        async with mdserver_client.connect(server.rest_url) as client:
            with pytest.raises(error) as caught:
                await client.candles("EURUSD", "1h", T0, T0 + 1)
            assert caught.value.code == code
        blocking = mdserver_client.open_sync(server.rest_url)
        with blocking, pytest.raises(error):
            await trio.to_thread.run_sync(blocking.brokers)


async def test_candles_are_asked_for_in_every_way_that_http_has() -> None:
    """In New York's days, with buckets filled, and with other columns; both clients alike."""
    store = FakeStore([Series(1, "one", "EURUSD", "tick")])
    store.missing = {OPEN + 60}
    services = {"store": store, "now_us": lambda: (OPEN + 30 * 86_400) * 10**6}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("1m", {"fill": "null", "fields": ["time", "close", "broker", "complete"]}),
        ("4h", {"align": "ny17", "broker": "one", "price": "mid"}),
        ("1h", {}),
    ]
    async with open_stream_server(services=services) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with mdserver_client.connect(url) as client:
            found = [await client.candles("EURUSD", length, OPEN, END, **more) for length, more in asked]

        def ask() -> list[Any]:
            with mdserver_client.open_sync(url) as client:
                return [client.candles("EURUSD", length, OPEN, END, **more) for length, more in asked]

        blocking = await trio.to_thread.run_sync(ask)
    assert [table.columns for table in found] == [table.columns for table in blocking]
    filled, in_new_york, plain = found
    assert list(filled.columns) == ["time", "close", "broker", "complete"]
    assert (filled[1].time, filled[1].close, filled[1].open) == (OPEN + 60, None, None)
    assert (filled[0].broker, filled[0].complete) == ("one", True)
    assert [one.time % 86_400 // 3_600 for one in in_new_york] == [1, 5]
    assert [one.time for one in plain] == list(range(OPEN, END + 1, 3_600))
    assert plain[0].count is None


def test_both_clients_ask_the_same_questions() -> None:
    asynchronous, blocking = mdserver_client.Client, mdserver_client.SyncClient
    for name in ("candles", "ticks", "trades", "symbols", "metadata", "gaps", "brokers"):
        assert inspect.signature(getattr(asynchronous, name)) == inspect.signature(getattr(blocking, name))
        assert getattr(blocking, name).__doc__


def test_times_are_taken_in_every_form_but_not_without_a_zone() -> None:
    from datetime import UTC, datetime

    from mdserver_client.records import seconds, utc

    assert seconds("2024-03-20") == seconds(datetime(2024, 3, 20, tzinfo=UTC)) == seconds(1_710_892_800)
    assert utc(1_710_892_800.123457).microsecond == 123_457
    with pytest.raises(ValueError, match="time zone"):
        seconds(datetime(2024, 3, 20))  # noqa: DTZ001 - that is the point


@pytest.fixture
def table() -> mdserver_client.Table[mdserver_client.StoredCandle]:
    columns = {
        "time": [T0, T0 + 60],
        **{name: [1.5, 2] for name in ("open", "high", "low", "close", "volume")},
    }
    return mdserver_client.Table(columns, mdserver_client.StoredCandle)


def test_a_table_is_rows_columns_and_frames(
    table: mdserver_client.Table[mdserver_client.StoredCandle],
) -> None:
    assert [row.close for row in table] == [1.5, 2]
    assert table[-1].time == T0 + 60
    assert len(table[:1]) == 1
    polars_frame = table.to_polars()
    assert polars_frame["time"].dt.epoch("s").to_list() == [T0, T0 + 60]
    assert str(polars_frame["time"].dtype) == "Datetime(time_unit='us', time_zone='UTC')"
    pandas_frame = table.to_pandas()
    assert [stamp.timestamp() for stamp in pandas_frame.index] == [T0, T0 + 60]
    assert str(pandas_frame.index.tz) == "UTC"
    ticks = [mdserver_client.Tick("one", "EURUSD", seq, T0 + seq, 1, 2) for seq in (1, 2)]
    gap = mdserver_client.Gap("one", "EURUSD", "tick", T0, "missed")
    assert list(mdserver_client.Table.of([ticks[0], gap, ticks[1]])) == ticks
    with pytest.raises(ValueError, match="one type, got Tick, Trade"):
        mdserver_client.Table.of([ticks[0], mdserver_client.Trade("one", "EURUSD", 1, T0, 1, 2)])
    empty = mdserver_client.Table({name: [] for name in table.columns}, mdserver_client.StoredCandle)
    assert len(empty.to_polars()) == len(empty.to_pandas()) == len(empty) == 0
