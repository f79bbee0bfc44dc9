"""Server-sent events at ``/api/stream``, over real sockets: the stream's messages, and the doors of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.lowlevel

from mdserver.config import AuthConfig, KeyEntry
from mdserver.errors import StoreUnavailable
from mdserver.keys import new_key
from mdserver.model import Tick, Topic, Trade
from mdserver.stream.stored_past import Begin, Start
from mdserver.web.server import tcp_server
from mdserver.web.stream import event_sink

from .conftest import EPOCH, HttpAnswer, http_get, open_client, open_stream_server
from .event_source import open_events

T0 = 1_710_918_000_000_000


def ticks(first: int, last: int, symbol: str = "EURUSD") -> list[Tick]:
    return [Tick(symbol, T0 + n, 1.0, 1.1) for n in range(first, last + 1)]


async def test_events_are_the_messages_of_the_stream_each_with_its_place() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as client,
        open_events(server.port, "symbols=eur/usd,BTCUSDT,a%22&types=tick,trade&received=true") as events,
    ):
        assert events.head["content-type"] == "text/event-stream; charset=utf-8"
        assert events.head["cache-control"] == "no-store"
        hello, ack = await events.get(), await events.get_type("ack")
        assert (hello["epoch"], hello["protocol"]) == (EPOCH, 1)
        assert [(one["symbol"], one["status"]) for one in ack["results"]][::2] == [
            ("EURUSD", "pending"),
            ("BTCUSDT", "pending"),
            ('a"', "error"),
        ]
        await events.get_type("ack")  # the broker has confirmed
        await client.subscribe("EURUSD", "BTCUSDT", types=["tick", "trade"], received=True)
        server.brokers["one"].publish(*ticks(1, 2), Trade("BTCUSDT", T0, 5.0, 1.0), *ticks(1, 1, "BTCUSDT"))
        seen = []
        while len(seen) < 4:
            event = await events.get()
            if event["type"] in ("tick", "trade"):
                seen.append(event)
                assert events.last_id.startswith(f"{EPOCH}/one:{'1' if len(seen) == 1 else '2'},0,")
        assert events.last_id == f"{EPOCH}/one:2,0,1,1"
        assert [(one["symbol"], one["type"], one["seq"]) for one in seen] == [
            ("EURUSD", "tick", 1),
            ("EURUSD", "tick", 2),
            ("BTCUSDT", "trade", 1),
            ("BTCUSDT", "tick", 1),
        ]
        same = []
        while len(same) < 4:
            message = await client.get()
            same += [message] if message["type"] in ("tick", "trade") else []
        assert same == seen


@pytest.mark.parametrize(
    ("query", "headers", "status", "code", "param", "says"),
    [
        ("", {}, 400, "missing_parameter", "symbols", "required"),
        ("symbols=EURUSD&sybmols=x", {}, 400, "invalid_parameter", "sybmols", "did you mean symbols?"),
        ("symbols=*&broker=one", {}, 400, "invalid_parameter", "symbols", "expected names"),
        ("symbols=EURUSD&types=nothing", {}, 404, "unknown_symbol", None, "unknown type"),
        ("symbols=EURUSD&broker=nobody", {}, 404, "unknown_symbol", "broker", "there are: one"),
        ("symbols=EURUSD&since=yesterday", {}, 400, "invalid_parameter", "since", "expected Unix seconds"),
        ("symbols=EURUSD&since=NaN", {}, 400, "invalid_parameter", "since", "expected Unix seconds"),
        ("symbols=EURUSD&since=1e400", {}, 400, "invalid_parameter", "since", "expected Unix seconds"),
        ("symbols=EURUSD&since=" + "[" * 3_000, {}, 400, "invalid_parameter", "since", "expected Unix"),
        ("symbols=EURUSD&received=1", {}, 400, "invalid_parameter", "received", "true or false"),
        ("symbols=EURUSD&interval=7m", {}, 400, "invalid_parameter", "interval", "belongs to"),
        (
            "symbols=EURUSD",
            {"Last_Event_ID": "x"},
            400,
            "invalid_parameter",
            "Last-Event-ID",
            "expected the id",
        ),
        ("symbols=" + ",".join(f"A{n}" for n in range(501)), {}, 400, "range_too_large", "symbols", "500"),
    ],
)
async def test_bad_input_is_a_problem_before_any_event(
    query: str, headers: dict[str, str], status: int, code: str, param: str | None, says: str
) -> None:
    async with open_stream_server() as server:
        answer = await http_get(server.port, f"/api/stream?{query}", **headers)
        problem = answer.json()
        assert (answer.status, problem["code"], problem["param"]) == (status, code, param)
        assert says in problem["detail"]
        await trio.testing.wait_all_tasks_blocked()
        assert not server.clients.sessions


async def test_the_doors_are_those_of_http() -> None:
    key, hashed = new_key()
    other, other_hash = new_key()
    entries = (
        KeyEntry("desk", hashed, symbols=("EURUSD",), max_connections=1),
        KeyEntry("reader", other_hash, scopes=("history",)),
    )
    path = "/api/stream?symbols=EURUSD"
    async with open_stream_server(auth=AuthConfig(keys=entries)) as server:

        async def status(path: str = path, **headers: str) -> Any:
            answer = await http_get(server.port, path, **headers)
            return answer.status, answer.json()["code"]

        assert await status() == (401, "unauthorized")
        assert await status(Authorization=f"Bearer {other}") == (403, "forbidden")
        mine = {"Authorization": f"Bearer {key}"}
        assert await status("/api/stream?symbols=GBPUSD", **mine) == (403, "forbidden")
        assert await status(Origin="https://evil.example", **mine) == (403, "forbidden")
        head = await http_get(server.port, path, "HEAD", **mine)
        assert (head.status, head.body, len(server.clients.sessions)) == (200, b"", 0)
        async with open_events(server.port, "symbols=EURUSD", **mine) as events:
            await events.get_type("ack")
            assert await status(**mine) == (429, "rate_limited")
            server.take(auth=AuthConfig(keys=entries[1:]))  # the key is withdrawn
            assert (await events.get_type("error"))["code"] == 402
            assert await events.get() is None
    async with open_stream_server(max_clients=1) as server, open_events(server.port, "symbols=EURUSD"):
        full = await http_get(server.port, path)
        assert (full.status, full.json()["code"], full.headers["retry-after"]) == (503, "unavailable", "5")


async def test_it_ends_cleanly_at_shutdown_and_says_when_to_come_back() -> None:
    async with (
        open_stream_server() as server,
        open_events(server.port, "symbols=EURUSD") as events,
        open_events(server.port, "types=heartbeat") as beating,
    ):
        await events.get_type("ack")
        assert (await beating.get_type("heartbeat"))["n"] == 1
        server.clients.close_all()
        while await events.get() is not None:
            pass
        assert events.retry_ms == 1_000
        with trio.fail_after(30):
            await server.clients.gone()


class _SlowPast:
    """A stored past that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answered = trio.Event(), trio.Event()

    async def caught_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def begins(self, starts: Mapping[Topic, Start]) -> dict[Topic, Begin]:
        self.asked.set()
        await self.answered.wait()
        return dict.fromkeys(starts, Begin(0))


class _AwayPast(_SlowPast):
    """A stored past that is away."""

    async def begins(self, starts: Mapping[Topic, Start]) -> dict[Topic, Begin]:
        raise StoreUnavailable("away")


async def test_a_client_that_cannot_resume_now_keeps_its_place(nursery: trio.Nursery) -> None:
    past: Any = _AwayPast()
    async with (
        open_stream_server(storing=lambda router, _: (router.publish, past)) as server,
        open_events(
            server.port, "symbols=EURUSD,BTCUSDT&broker=one", Last_Event_ID=f"{EPOCH}/one:7,9"
        ) as events,
    ):
        assert (await events.get_type("error"))["code"] == 410
        assert events.last_id == f"{EPOCH}/one:7,9"
        server.brokers["one"].publish(*ticks(1, 1))
        await events.get_type("tick")
        assert events.last_id == f"{EPOCH}/one:1,9"


async def test_a_stream_that_is_asked_for_while_the_server_stops_is_told_to_come_back(
    nursery: trio.Nursery,
) -> None:
    past: Any = _SlowPast()
    answers: list[HttpAnswer] = []
    async with open_stream_server(storing=lambda router, _: (router.publish, past)) as server:

        async def ask() -> None:
            answers.append(await http_get(server.port, "/api/stream?symbols=EURUSD&broker=one&since=1"))

        nursery.start_soon(ask)
        await past.asked.wait()
        server.clients.close_all()
        await server.clients.gone()
        past.answered.set()
        with trio.fail_after(30):
            while not answers:
                await trio.sleep(0.01)
    (answer,) = answers
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")


async def test_a_client_that_leaves_is_let_go_of_and_a_quiet_stream_shows_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_sink, "COMMENT_S", 0.05)
    async with open_stream_server() as server:
        async with open_events(server.port, "symbols=EURUSD") as events:
            await events.get_type("ack")
            with trio.move_on_after(0.3):
                await events.get_type("ack")
                await events.get_type("never")
            assert events.comments >= 2
            (session,) = server.clients.sessions
            sink = session.sink
        with trio.fail_after(30):
            while server.clients.sessions:
                await trio.sleep(0.01)
        assert not server.router.topics_of(sink)
        assert not server.supervisor.brokers["one"].demand.current()


async def test_a_slow_client_gets_the_latest_ticks_and_what_must_not_be_dropped_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        tcp_server, "SEND_TIMEOUT_S", 100.0
    )  # on a busy machine publishing takes longer than ten
    async with open_stream_server(client_buffer_bytes=200_000) as server:
        async with (
            open_events(server.port, "symbols=EURUSD&types=tick") as slow,
            open_events(server.port, "symbols=EURUSD&types=trade") as trades,
            open_client(server.url) as other,
        ):
            for source in (slow, trades):
                while (await source.get_type("ack"))["results"][0]["status"] != "active":
                    pass
            await other.subscribe("EURUSD")
            for batch in range(400):  # some 10 MB of each: more than sockets take
                first = batch * 250
                server.brokers["one"].publish(*ticks(first + 1, first + 250))
                server.brokers["one"].publish(
                    *(Trade("EURUSD", T0 + n, 5.0, 1.0) for n in range(first, first + 250))
                )
                await trio.lowlevel.checkpoint()
            seqs, skipped = [], 0
            while not seqs or seqs[-1] < 100_000:
                event = await slow.get()
                skipped += event.get("conflated", 0)
                seqs.append(event["seq"])
                assert slow.last_id == f"{EPOCH}/one:{seqs[-1]}"
            assert skipped > 0
            assert len(seqs) + skipped == 100_000
            got = 0
            while (event := await trades.get())["type"] == "trade":
                got += 1
                assert event["seq"] == got
            assert (event["type"], event["code"]) == ("error", 407)
            assert await trades.get() is None
            assert trades.retry_ms == 5_000
            while (await other.get()).get("seq") != 100_000:
                pass
