"""The client protocol with whatever a client may send: a code of the protocol, no traceback, and nobody else waits.

Each message is followed by a ping, so that its answers are known to be complete when the pong comes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import structlog
import trio
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket_url

from mdserver.store.open_database import open_database
from mdserver.web.api import event_stream
from mdserver.web.api.openapi import openapi_document
from mdserver.web.server.tcp_server import MAX_FRAME_BYTES
from tests.component.conftest import EPOCH, open_stream_server

from .storing_server import open_storing_server

CODES = frozenset((400, 401, 402, 404, 405, 406, 407, 408, 409, 410, 429))
"""What api.md has, without 500."""
RECORDS = frozenset(("tick", "trade", "orderbook", "gap", "heartbeat", "status"))
PATIENCE_S = 5.0
"""What another client may wait while this goes on; far above what it does on an idle machine."""

TEMPLATES: list[dict[str, Any]] = [
    {"action": "subscribe", "symbols": ["EURUSD"], "id": 1},
    {
        "action": "subscribe",
        "symbols": ["EURUSD", "GBPUSD"],
        "types": ["tick", "trade"],
        "broker": "one",
        "id": "a",
    },
    {"action": "subscribe", "symbols": ["EURUSD"], "types": ["orderbook"], "depth": 5, "snapshot": True},
    {
        "action": "subscribe",
        "symbols": ["*"],
        "broker": "one",
        "rate_ms": 100,
        "slow": "close",
        "received": True,
    },
    {"action": "subscribe", "symbols": ["EURUSD"], "broker": "one", "since": {"seq": 5}},
    {"action": "subscribe", "symbols": ["EURUSD"], "since": 1_780_000_000.5, "id": 0},
    {"action": "subscribe", "since": {"epoch": EPOCH, "seqs": [["one", "EURUSD", "tick", 3]]}},
    {
        "action": "subscribe",
        "since": {"epoch": "other", "seqs": [["one", "EURUSD", "tick", 3], ["no", "!", "x", 0]]},
    },
    {"action": "subscribe", "symbols": ["EURUSD"], "types": ["candle"], "interval": "1m"},
    {"action": "subscribe", "types": ["heartbeat"]},
    {"action": "unsubscribe", "symbols": ["EURUSD"], "types": ["tick"], "broker": "one"},
    {"action": "unsubscribe"},
    {"action": "list", "id": "l"},
    {"action": "ping"},
    {"action": "auth", "key": "k"},
    {"action": "authenticate", "broker": "one", "credentials": {"account": "x"}},
]
SINCES = st.sampled_from(
    [
        -1,
        0,
        1e308,
        2**70,
        99_999_999_999,
        {"seq": -1},
        {"seq": 2**63},
        {"seq": 1.5},
        {"seq": True},
        {"seqs": []},
        {},
    ]
    + [{"epoch": EPOCH, "seqs": rows} for rows in ([], [[]], [["one", "EURUSD", "tick", 2**63 - 1]], "x", {})]
    + [{"epoch": 1, "seqs": [["one", "EURUSD", "tick", 1]] * 2}]
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "*", "EUR/USD", "\x00", "💥", "币安人生USDT", "ß", "ı", "a" * 3_000, "__proto__", "tick", "full"]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A request with a field or two of another type, one more, or one less."""
    message = dict(draw(st.sampled_from(TEMPLATES)))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(
            st.sampled_from([*message, "since", "symbols", "types", "id", "depth", "rate_ms"]) | texts
        )
        if draw(st.integers(0, 5)) == 0:
            message.pop(name, None)
        else:
            message[name] = draw(SINCES | values if name == "since" else values)
    return message


@st.composite
def broken(draw: st.DrawFn) -> str:
    """The text of a request with some characters changed."""
    text = json.dumps(draw(st.sampled_from(TEMPLATES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(list('{}[]",:\\0-eN \x00é')))
            + text[at + draw(st.integers(0, 3)) :]
        )
    return text


ODD = [
    "", " ", "null", "NaN", "[]", "[" * 30_000, '{"a":' * 10_000, "1" * 60_000, '"' + "x" * 60_000 + '"',
    '{"action":"ping","id":"\\ud800"}', '{"action":"ping","action":"list"}', '{"action":"ping","id":1,"id":2}',
    '{"action":"ping","id":1e400}', '{"action":"ping","id":' + "9" * 5_000 + "}", '{"action":"\\u0000"}',
    '{"action":"subscribe","symbols":["\\ud83d"]}', '{"action":"subscribe","symbols":["EURUSD"],"since":NaN}',
    '{"action":"subscribe","symbols":["EURUSD"],"since":1e999}', '{"id":{},"action":"ping"}', "\ufeff{}",
]  # fmt: skip

json_texts = st.one_of(
    mutated().map(json.dumps),
    mutated().map(json.dumps),
    values.map(json.dumps),
    broken(),
    st.sampled_from(ODD),
    texts,
)


def packed(value: Any) -> bytes:
    """Return a value as MessagePack, as far as that has it."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return b"\xd3" + bytes(8)


ODD_BYTES = [
    b"",
    b"\xc1",
    b"\xc0",
    b"\x91" * 30_000,
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc7\x04\x05abcd",
]
ODD_BYTES += [
    b"\xd7\xff" + bytes(8),
    b"\x81\xc4\x01\xff\x01",
    b"\x81\xa6action\xa4ping\x00",
    b"\x82\xa6action\xa4ping\x01\x02",
]
frames = st.one_of(
    mutated().map(packed), values.map(packed), st.sampled_from(ODD_BYTES), st.binary(max_size=60)
)


_numbers = itertools.count()


class Fuzzed:
    """A connection that sends anything, and checks the answers."""

    def __init__(self, connection: WebSocketConnection, *, binary: bool, patience_s: float) -> None:
        self.connection = connection
        self.patience_s = patience_s
        self.binary = binary
        self.pings = 0

    def decode(self, raw: str | bytes) -> Any:
        return msgspec.msgpack.decode(raw) if self.binary else json.loads(raw)

    async def answers(self, message: str | bytes) -> list[dict[str, Any]]:
        """Send a message; return its answers."""
        self.pings += 1
        mark = f"mark {self.pings}"
        await self.connection.send_message(message)
        await self.connection.send_message(json.dumps({"action": "ping", "id": mark}))
        found: list[dict[str, Any]] = []
        with trio.move_on_after(self.patience_s):
            while True:
                answer = self.decode(await self.connection.get_message())
                if answer.get("id") == mark:
                    assert answer["type"] == "pong", answer
                    return found
                if answer["type"] not in RECORDS:
                    found.append(answer)
        raise AssertionError(f"not answered within {self.patience_s} s: {message[:300]!r}")


@asynccontextmanager
async def connected(url: str, *, binary: bool, patience_s: float = PATIENCE_S) -> AsyncIterator[Fuzzed]:
    async with trio.open_nursery() as nursery:
        connection = await connect_websocket_url(nursery, url + ("?format=msgpack" if binary else ""))
        fuzzed = Fuzzed(connection, binary=binary, patience_s=patience_s)
        assert fuzzed.decode(await connection.get_message())["type"] == "status"
        yield fuzzed
        with trio.move_on_after(1):
            await connection.aclose()
        await trio.aclose_forcefully(connection._stream)
        nursery.cancel_scope.cancel()


async def fuzz(url: str, folder: Path, messages: list[str | bytes], *, binary: bool) -> None:
    """Send the messages to a server; nothing may fail, and another client is answered meanwhile."""
    journal = folder / str(next(_numbers))
    with capture_logs() as logs:
        async with (
            open_database(url, retry_for_s=0, log=structlog.get_logger()) as database,
            open_storing_server(database, journal, types=("tick", "trade", "orderbook")) as server,
            connected(server.stream.url, binary=binary, patience_s=4 * PATIENCE_S) as client,
            connected(server.stream.url, binary=False) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(partial(server.publish_on, 200.0))
            nursery.start_soon(keep_asking, other)
            for message in messages:
                check(message, await client.answers(message))
            nursery.cancel_scope.cancel()
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []


async def keep_asking(other: Fuzzed) -> None:
    while True:
        await other.answers('{"action":"list"}')  # within PATIENCE_S


def id_of(message: str | bytes) -> str | int | None:
    """Return the id of a request, as far as it is one that an answer repeats."""
    try:
        found = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None
    given = found.get("id") if isinstance(found, dict) else None
    fits = isinstance(given, str) or (type(given) is int and -(2**63) <= given < 2**64)
    return given if fits else None


def check(message: str | bytes, answers: list[dict[str, Any]]) -> None:
    assert answers, message
    expected = id_of(message)
    # what is no JSON for the server, such as NaN, has no id that it could know; others may be late answers
    refused = [answer for answer in answers if answer.get("message", "").startswith("not ")]
    assert refused or any(answer.get("id") == expected for answer in answers), (message, answers)
    for answer in answers:
        assert answer["type"] in ("ack", "error", "pong"), (message, answer)
        if answer["type"] == "error":
            assert answer["code"] in CODES, (message, answer)
            assert answer["message"], message
        for result in answer.get("results", ()):
            assert result.get("code", 400) in CODES, (message, result)


def sweep(*, long: bool) -> Any:
    return settings(
        max_examples=60 if long else 2, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("binary", [False, True])
def test_whatever_a_client_sends_gets_an_answer_of_the_protocol(
    database_url: str, tmp_path: Path, *, binary: bool, long: bool
) -> None:
    kinds = (
        st.one_of(json_texts, frames) if binary else st.one_of(json_texts, json_texts, st.binary(max_size=9))
    )

    @seed(1)
    @sweep(long=long)
    @example([*ODD, *ODD_BYTES])
    @example([json.dumps(one) for one in TEMPLATES])
    @given(st.lists(kinds, min_size=40, max_size=40))
    def run(messages: list[str | bytes]) -> None:
        trio.run(partial(fuzz, database_url, tmp_path, messages, binary=binary))

    run()


QUERIES = st.lists(
    st.tuples(
        st.sampled_from([*event_stream.QUERY, "format", "key"]) | texts,
        st.sampled_from(
            ["EURUSD", "tick,trade", "one", "1m", "5", "full", "true", '{"seq":1}', "[[[", "9" * 400]
        )
        | texts,
    ),
    max_size=4,
)
EVENT_IDS = st.none() | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)
EVENT_IDS |= st.sampled_from(
    [f"{EPOCH}/one:1", f"{EPOCH}/one:{'9' * 30}", f"{EPOCH}/,,", "/", "x/%", "x" * 4_000]
)


async def stream_head(port: int, query: list[tuple[str, str]], last: str | None) -> tuple[int, str]:
    """Begin a stream of events; return the status and the type of content."""
    asked = urlencode([("symbols", "EURUSD"), *query], errors="replace")
    lines = ["Host: localhost", *([] if last is None else [f"Last-Event-ID: {last.strip()}"])]
    head = b""
    with trio.fail_after(4 * PATIENCE_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(
                "\r\n".join([f"GET /api/stream?{asked} HTTP/1.1", *lines, "", ""]).encode("latin-1")
            )
            while b"\r\n\r\n" not in head:
                part = await stream.receive_some()
                assert part, (query, last)
                head += part
    fields = dict(line.lower().split(b": ", 1) for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return int(head.split()[1]), fields[b"content-type"].decode().partition(";")[0]


async def fuzz_events(asked: list[tuple[list[tuple[str, str]], str | None]]) -> None:
    described = openapi_document()["paths"]["/api/stream"]["get"]["responses"]
    with capture_logs() as logs:
        async with open_stream_server() as server, connected(server.url, binary=False) as other:
            for query, last in asked:
                status, kind = await stream_head(server.port, query, last)
                assert kind in described[str(status)]["content"], (query, last)
                await other.answers('{"action":"list"}')
            with trio.fail_after(PATIENCE_S):
                while len(server.clients.sessions) > 1:  # whoever went is forgotten
                    await trio.sleep(0.01)
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []


def test_whatever_a_stream_of_events_is_asked_for_gets_an_answer_of_the_document(*, long: bool) -> None:
    @seed(1)
    @sweep(long=long)
    @given(st.lists(st.tuples(QUERIES, EVENT_IDS), min_size=20, max_size=20))
    def run(asked: list[tuple[list[tuple[str, str]], str | None]]) -> None:
        trio.run(fuzz_events, asked)

    run()


@pytest.mark.parametrize("count", [2_000, 10_000])
async def test_thousands_of_topics_in_one_resume_hold_nobody_up(count: int) -> None:
    """What fits into a message is answered for each topic, or refused as a whole; what does not closes with 1009."""
    rows = [["one", f"S{number}", "tick", 1] for number in range(count)]
    message = json.dumps({"action": "subscribe", "since": {"epoch": EPOCH, "seqs": rows}})
    async with open_stream_server(max_symbols=5_000) as server, connected(server.url, binary=False) as other:
        async with (
            connected(server.url, binary=False, patience_s=4 * PATIENCE_S) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(keep_asking, other)
            if len(message) > MAX_FRAME_BYTES:
                with pytest.raises(ConnectionClosed) as closed:
                    await client.answers(message)
                assert closed.value.reason.code == 1009
            else:
                ack, *_ = await client.answers(message)
                assert len(ack["results"]) == count
                assert {one["status"] for one in ack["results"]} == {"pending"}
            nursery.cancel_scope.cancel()
