"""The clients that we ship against a server that misbehaves: Python on trio and asyncio, JavaScript in Node."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import msgspec
import psutil
import pytest
import trio
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

import mdserver_client
from mdserver.protocol.server_frames import close_frame, text_frame
from mdserver.testing.websocket_venue import (
    FakeClient,
    FakeWebSocketVenue,
    HttpAnswer,
    HttpRequest,
    open_fake_venue,
)
from mdserver_client import _stream
from mdserver_client._websocket import WebSocket
from tests.integration.test_clients_of_others import program

from .conftest import open_stream_server
from .http.conftest import FakeStore, Series

ROOT = Path(__file__).parents[2]
HTML = HttpAnswer(502, "<html>Bad Gateway</html>", {"Content-Type": "text/html"})
T0 = 1_780_000_000
OPEN = 1_710_892_800
"""Midnight UTC; the store has candles of the day behind it."""
END = OPEN + 7 * 3_600


def tick(seq: int, **fields: Any) -> dict[str, Any]:
    record = {
        "type": "tick",
        "broker": "one",
        "symbol": "EURUSD",
        "seq": seq,
        "time": T0 + seq,
        "bid": 1,
        "ask": 2,
    }
    return record | fields


def gap(from_: float, to: float, cause: str, **fields: Any) -> dict[str, Any]:
    where = {"type": "gap", "broker": "one", "symbol": "EURUSD", "record_type": "tick"}
    return where | {"from": from_, "to": to, "cause": cause, "state": "open"} | fields


def result(**fields: Any) -> dict[str, Any]:
    return {"broker": "one", "symbol": "EURUSD", "type": "tick", "status": "active"} | fields


def acknowledged(client: FakeClient, request: dict[str, Any], **fields: Any) -> None:
    ack = {"type": "ack", "id": request["id"], "action": "subscribe", "results": [result(**fields)]}
    client.send(ack | {"subscriptions": []})


Turn = Callable[[FakeClient, dict[str, Any]], object]


class FakeServer(FakeWebSocketVenue):
    """Greets, notes what is asked, and answers each subscription with the next of ``turns``."""

    def __init__(self, *turns: Turn, epochs: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.turns = list(turns)
        self.epochs = epochs
        self.asked: list[dict[str, Any]] = []
        self.answer = HttpAnswer(
            426, {"code": "invalid_request"}, {"Content-Type": "application/problem+json"}
        )

    async def on_connect(self, client: FakeClient) -> None:
        epoch = self.epochs[min(len(self.past), len(self.epochs) - 1)]
        hello = {"type": "status", "message": "hello", "protocol": 1, "server": "mdserver/0", "epoch": epoch}
        client.send(hello | {"time": T0 + 1_000})

    async def on_message(self, client: FakeClient, text: str) -> None:
        request = json.loads(text)
        if request["action"] == "subscribe":
            self.asked.append(request)
            self.turns.pop(0)(client, request)

    async def on_http(self, request: HttpRequest) -> HttpAnswer:
        return self.answer


def says(*messages: dict[str, Any], **fields: Any) -> Turn:
    """Return a turn that acknowledges and sends messages; ``fields`` are of the result."""

    def turn(client: FakeClient, request: dict[str, Any]) -> None:
        acknowledged(client, request, **fields)
        for message in messages:
            client.send(message)

    return turn


def says_and_resets(*messages: dict[str, Any], **fields: Any) -> Turn:
    """Return a turn that ends with the connection lost, once the client has had it all."""

    def turn(client: FakeClient, request: dict[str, Any]) -> None:
        says(*messages, **fields)(client, request)
        client.hang_up()

    return turn


def fails(code: int, message: str, close: int | None = None) -> Turn:
    def turn(client: FakeClient, request: dict[str, Any]) -> None:
        client.send({"type": "error", "id": request["id"], "code": code, "message": message})
        if close is not None:
            client.close(close, message)

    return turn


@attrs.frozen
class Outcome:
    """What a client handed to its loop, and how that ended."""

    records: list[dict[str, Any]]
    error: dict[str, Any] | None


Run = Callable[..., Any]


async def stream_in_python(url: str, count: int, options: dict[str, Any]) -> Outcome:
    options = dict(options)
    symbols, key = options.pop("symbols"), options.pop("key", None)
    records: list[dict[str, Any]] = []
    try:
        async with mdserver_client.connect(url, key) as client:
            async for record in client.stream(symbols, **options):
                found = msgspec.to_builtins(record)
                records.append(
                    {name: value for name, value in found.items() if value not in (None, False, 0)}
                )
                if len(records) >= count:
                    break
    except mdserver_client.MdserverError as error:
        return Outcome(records, {"name": type(error).__name__, "code": error.code, "message": str(error)})
    return Outcome(records, None)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The program in Node, for all tests: to start it takes longer than most of them."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "clients/js", folder / "node_modules/mdserver-client")
    shutil.copy(Path(__file__).parent / "client_program.mjs", folder)
    command = [program("node"), folder / "client_program.mjs"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:  # type: ignore[call-overload]
        yield process
        process.kill()


@pytest.fixture(params=["trio", "asyncio", "node"])
def run(request: pytest.FixtureRequest) -> Run:
    """Stream from a server until so many records have come or it fails."""

    async def stream(server: FakeServer, count: int, **options: Any) -> Outcome:
        options = {"symbols": ["EURUSD"], **options}
        with trio.fail_after(30):
            if request.param == "trio":
                return await stream_in_python(server.rest_url, count, options)
            if request.param == "asyncio":
                work = partial(anyio.run, stream_in_python, server.rest_url, count, options)
                outcome: Outcome = await trio.to_thread.run_sync(work)
                return outcome
            process = request.getfixturevalue("node")
            process.stdin.write(json.dumps([server.rest_url, count, options]) + "\n")
            process.stdin.flush()
            line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        return Outcome(**json.loads(line))

    return stream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(_stream, "HISTORY_RETRY_S", 0.05)


async def test_a_lost_connection_is_resumed_behind_the_last_record(run: Run) -> None:
    first = says_and_resets(tick(1), tick(2), tick(3))
    server = FakeServer(first, says(tick(3), tick(4), tick(5), recovered=True))
    async with open_fake_venue(server):
        outcome = await run(server, 5)
    assert outcome == Outcome([tick(n) for n in range(1, 6)], None)
    assert server.asked[0]["symbols"] == ["EURUSD"]
    assert server.asked[1]["since"] == {"epoch": "a", "seqs": [["one", "EURUSD", "tick", 3]]}
    assert "symbols" not in server.asked[1]


async def test_another_epoch_is_a_gap_and_goes_on_by_time(run: Run) -> None:
    again = says(tick(1, time=T0 + 2), tick(2, time=T0 + 7), recovered=True)
    server = FakeServer(says_and_resets(tick(1), tick(2)), again, epochs=("a", "b"))
    async with open_fake_venue(server):
        outcome = await run(server, 4)
    assert outcome.records == [tick(1), tick(2), gap(T0 + 2, T0 + 7, "epoch"), tick(2, time=T0 + 7)]
    assert server.asked[1]["since"] == T0 + 2


async def test_what_is_stored_no_more_is_a_gap(run: Run) -> None:
    again = says(tick(9), recovered=False, message="not stored")
    server = FakeServer(says_and_resets(tick(1)), again)
    async with open_fake_venue(server):
        outcome = await run(server, 3)
    assert outcome.records == [tick(1), gap(T0 + 1, T0 + 9, "not_stored"), tick(9)]


async def test_history_that_is_not_there_yet_is_asked_for_again(run: Run) -> None:
    """What is live meanwhile comes again with the replay: it is not handed over twice."""

    def away(client: FakeClient, request: dict[str, Any]) -> None:
        says()(client, request)
        fails(410, "the database is away")(client, request)
        client.send(tick(7))

    back = says(*(tick(n) for n in range(2, 9)), recovered=True)
    server = FakeServer(says_and_resets(tick(1)), away, back)
    async with open_fake_venue(server):
        outcome = await run(server, 8)
    assert outcome.records == [tick(n) for n in range(1, 9)]
    assert server.asked[1]["since"] == server.asked[2]["since"]


async def test_nobody_waits_for_the_history_of_a_server_that_stores_nothing(run: Run) -> None:
    def without(client: FakeClient, request: dict[str, Any]) -> None:
        says(recovered=False, code=410, message="this server stores nothing")(client, request)
        fails(410, "since: this server stores nothing")(client, request)
        client.send(tick(7))

    server = FakeServer(says_and_resets(tick(1)), without)
    async with open_fake_venue(server):
        began = trio.current_time()
        outcome = await run(server, 3)
        waited_s = trio.current_time() - began
    assert outcome.records == [tick(1), gap(T0 + 1, T0 + 7, "not_stored"), tick(7)]
    assert len(server.asked) == 2
    assert waited_s < 15


async def test_a_key_without_history_goes_on_live(run: Run) -> None:
    server = FakeServer(says_and_resets(tick(1)), fails(409, "no scope history"), says(tick(5)))
    async with open_fake_venue(server):
        outcome = await run(server, 3)
    assert outcome.records[0] == tick(1)
    assert outcome.records[1]["type"] == "gap"
    assert outcome.records[2] == tick(5)
    assert "since" not in server.asked[2]


async def test_jumps_are_gaps_unless_they_are_explained(run: Run) -> None:
    told = gap(T0 + 6, T0 + 9, "restart")
    messages = [tick(1), tick(4, conflated=2), tick(6), told, told, tick(9), tick(9), tick(12)]
    server = FakeServer(says(*messages))
    async with open_fake_venue(server):
        outcome = await run(server, 8)
    missed = [gap(T0 + 4, T0 + 6, "missed", size=1), gap(T0 + 9, T0 + 12, "missed", size=2)]
    kept = [tick(1), tick(4, conflated=2), missed[0], tick(6), told, tick(9), missed[1], tick(12)]
    assert outcome.records == kept


async def test_candles_that_may_have_been_missed_are_a_gap(run: Run) -> None:
    def candle(minute: int, *, closed: bool) -> dict[str, Any]:
        prices = dict.fromkeys(("open", "high", "low", "close", "volume", "count"), 1)
        record = {
            "type": "candle",
            "broker": "one",
            "symbol": "EURUSD",
            "interval": "1m",
            "time": T0 + 60 * minute,
        }
        return record | prices | ({"closed": True} if closed else {"closed": False})

    def turn(*messages: dict[str, Any], end: bool) -> Turn:
        def act(client: FakeClient, request: dict[str, Any]) -> None:
            acknowledged(client, request, type="candle", interval="1m")
            for message in messages:
                client.send(message)
            if end:
                client.hang_up()

        return act

    server = FakeServer(
        turn(candle(0, closed=True), end=True),
        turn(candle(1, closed=True), end=True),
        turn(candle(3, closed=True), end=False),
    )
    async with open_fake_venue(server):
        outcome = await run(server, 4, types=["candle"], interval="1m")
    assert [record["type"] for record in outcome.records] == ["candle", "candle", "gap", "candle"]
    assert outcome.records[2]["cause"] == "disconnected"
    assert all(asked["interval"] == "1m" and "since" not in asked for asked in server.asked)


async def test_garbage_is_survived_but_not_for_ever(run: Run) -> None:
    def garbage(client: FakeClient, request: dict[str, Any]) -> None:
        client.send("<html>" if len(server.asked) % 2 else '[{"no": "type"}]')

    server = FakeServer(says_and_resets(tick(1)), garbage, says(tick(2), recovered=True), says())
    async with open_fake_venue(server):
        assert await run(server, 2) == Outcome([tick(1), tick(2)], None)
        server.turns[:] = [garbage] * 5
        outcome = await run(server, 1)
    assert outcome.error is not None
    assert outcome.error["name"] == "ProtocolViolation"


async def test_messages_of_a_newer_server_are_left_out_and_arrays_are_taken(run: Run) -> None:
    def turn(client: FakeClient, request: dict[str, Any]) -> None:
        says()(client, request)
        client.send([tick(1), {"type": "news", "text": "of tomorrow"}, tick(2, colour="red")])

    server = FakeServer(turn)
    async with open_fake_venue(server):
        outcome = await run(server, 2)
    assert [record["seq"] for record in outcome.records] == [1, 2]


async def test_all_symbols_of_a_broker_go_on_as_such(run: Run) -> None:
    server = FakeServer(
        says_and_resets(tick(1), symbol="*"),
        says(tick(3), symbol="*"),
        says(tick(2), tick(3), tick(1, symbol="GBPUSD"), recovered=True),
    )
    async with open_fake_venue(server):
        outcome = await run(server, 4, symbols=["*"], broker="one")
    assert outcome == Outcome([tick(1), tick(2), tick(3), tick(1, symbol="GBPUSD")], None)
    assert (server.asked[1]["symbols"], server.asked[1]["broker"]) == (["*"], "one")
    assert "since" not in server.asked[1]
    assert server.asked[2]["since"]["seqs"] == [["one", "EURUSD", "tick", 1]]


@pytest.mark.parametrize(
    ("turn", "name", "code"),
    [
        (says(status="error", code=408, message="no such symbol"), "Refused", 408),
        (fails(400, "interval: expected one of …"), "Refused", 400),
        (fails(402, "authentication failed", close=1008), "NotAuthenticated", 402),
    ],
)
async def test_what_does_not_pass_is_one_typed_error(run: Run, turn: Turn, name: str, code: int) -> None:
    server = FakeServer(turn)
    async with open_fake_venue(server):
        outcome = await run(server, 1, key="secret")
    assert outcome.error is not None
    assert (outcome.error["name"], outcome.error["code"]) == (name, code)
    assert "secret" not in outcome.error["message"]
    assert not server.turns


async def test_a_proxy_that_answers_for_the_server(run: Run) -> None:
    """At first that is an error; once there was a server it will be back."""
    server = FakeServer(says_and_resets(tick(1)), says(tick(2), recovered=True))
    server.refusal = server.answer = HTML
    async with open_fake_venue(server):
        outcome = await run(server, 1)
        assert outcome.error is not None
        assert outcome.error["name"] == "ConnectionFailed"
        assert "text/html" in outcome.error["message"]
        server.admit()

        async def be_away_once(request: HttpRequest) -> HttpAnswer | None:
            return HTML if server.attempts == 3 else None

        server.on_attempt = be_away_once  # type: ignore[method-assign]
        assert await run(server, 2) == Outcome([tick(1), tick(2)], None)
    assert server.attempts == 4


async def test_no_server(run: Run) -> None:
    server = FakeServer()
    server.rest_url = "http://127.0.0.1:9"
    outcome = await run(server, 1)
    assert outcome.error is not None
    assert outcome.error["name"] == "ConnectionFailed"
    assert "127.0.0.1:9" in outcome.error["message"]


# -- Python alone ------------------------------------------------------------------------------------------------------


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


class Wire(anyio.abc.ByteStream):
    """The other end of a connection as a list of what it sends, piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.sent = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await anyio.lowlevel.checkpoint()
        try:
            return next(self.pieces)
        except StopIteration:
            raise anyio.EndOfStream from None

    async def send(self, item: bytes) -> None:
        self.sent += item

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def websocket(pieces: Iterable[bytes]) -> tuple[WebSocket, Wire]:
    wire = Wire(pieces)
    return WebSocket(
        wire, ClientProtocol(parse_uri("ws://here/"), state=State.OPEN, max_size=None), b""
    ), wire


LONG = b"x" * 70_000
FRAMES = (
    text_frame(b"one")
    + b"\x89\x02hi"  # a ping
    + text_frame(b"y" * 300)
    + b"\x01\x02fr\x89\x00\x00\x01a\x80\x05gment"  # a message in three parts, with a ping in between
    + text_frame(LONG)
    + close_frame(1012, "restart")
)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 65_537, 1_000_000])
async def test_frames_are_taken_however_they_are_cut(cut: int) -> None:
    data = FRAMES if cut > 100 else FRAMES.replace(text_frame(LONG), b"")
    connection, wire = websocket(data[at : at + cut] for at in range(0, len(data), cut))
    texts: list[bytes] = []

    async def read() -> None:
        while True:
            texts.extend(await connection.receive())

    with pytest.raises(mdserver_client.ConnectionFailed, match="1012: restart"):
        await read()
    assert texts == [b"one", b"y" * 300, b"fragment", *([LONG] if cut > 100 else [])]
    assert [frame[0] for frame in unmasked(wire.sent)] == [
        0x8A,
        0x8A,
        0x88,
    ]  # two pongs, and the close's answer


def unmasked(data: bytes) -> Iterator[bytes]:
    """Yield a client's short frames."""
    while data:
        size = 6 + (data[1] & 0x7F)
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1\x01a",  # a reserved bit
        b"\x81\x7f" + (1 << 40).to_bytes(8, "big"),  # a message of a terabyte
        b"\x80\x01a",  # the end of what never began
        b"\x8b\x00",  # an opcode that does not exist
    ],
)
async def test_what_is_no_frame_is_a_violation(frame: bytes) -> None:
    connection, _ = websocket([frame])
    with pytest.raises(mdserver_client.ProtocolViolation):
        await connection.receive()


async def test_a_trickle_is_taken_and_pings_are_answered(run: Run) -> None:
    def trickle(client: FakeClient, request: dict[str, Any]) -> None:
        client.bytes_per_s = 20_000
        client.ping(b"there?")
        says(tick(1, note="n" * 200), tick(2, note="n" * 1_000))(client, request)

    server = FakeServer(trickle)
    async with open_fake_venue(server):
        outcome = await run(server, 2)
        await server.wait_until(lambda: not server.clients)
    assert [record["seq"] for record in outcome.records] == [1, 2]
    assert server.past[0].pongs
