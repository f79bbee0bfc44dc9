"""A server that misbehaves as a test says, and the clients that we ship streaming from it: Python and JavaScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import msgspec
import pytest
import trio

import mdserver_client
from mdserver.testing.websocket_venue import (
    FakeClient,
    FakeWebSocketVenue,
    HttpAnswer,
    HttpRequest,
)
from mdserver_client import _stream
from tests.integration.test_clients_of_others import program

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
