"""``authenticate``: a broker session for one client alone, with its credentials, through a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from mdserver.net import WebSocketClosed, open_websocket

from .daemon import open_daemon, write_config
from .test_daemon import broken_distribution
from .test_reload import MOCK, Watching, brokers_of

VENUE = """
import attrs, time, trio, mdserver.plugin as p
from mdserver.errors import Rejected
from mdserver.model import Tick
PRICES = {'operators-own-key': 1.0, 'key-of-client-a': 2.0, 'key-of-client-b': 3.0}
@attrs.frozen
class C:
    api_key: str = attrs.field(default='operators-own-key')
    account: str = attrs.field(default='', metadata={'credential': True})
    url: str = 'wss://venue.example'
class Venue:
    def __init__(self, config): self.config = config
    async def run(self, host, *, task_status):
        price = PRICES.get(self.config.api_key)
        if price is None:
            raise Rejected(f'the venue refuses the key {self.config.api_key}')
        host.log.info('session opened', api_key=self.config.api_key, note=f'with {self.config.api_key}')
        task_status.started()
        try:
            while True:
                await trio.sleep(0.01)
                wanted = host.demand.current()
                host.confirm(wanted)
                host.publish([Tick(feed.symbol, time.time_ns() // 1000, price, price + 0.1) for feed in wanted])
        finally:
            host.log.info('session closed', price=price)
plugin = p.BrokerPlugin('venue', '', C, Venue, silence_s=None)
"""


@pytest.fixture
def config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "venue", VENUE)))
    venue = {"name": "venue", "symbols": ["EURUSD"], "client_credentials": True}
    return write_config(folder, brokers=[venue, MOCK])


async def authenticate(ws: Any, client: Watching, **credentials: Any) -> dict[str, Any]:
    """Ask for a session; return the answer, which comes once the venue has said something."""
    request = {"action": "authenticate", "broker": "venue", "credentials": credentials, "id": "auth"}
    await ws.send(json.dumps(request))
    return (await client.until(lambda m: m.get("id") == "auth"))[-1]


def bids(messages: list[dict[str, Any]]) -> set[float]:
    return {m["bid"] for m in messages if m["type"] == "tick" and m["broker"] == "venue"}


async def ticks(client: Watching, count: int) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for _ in range(count):
        seen += await client.until(lambda m: m["type"] == "tick")
    return seen


async def test_each_client_gets_the_records_of_its_own_session_and_nothing_of_them_is_kept(
    folder: Path, config: Path
) -> None:
    async with (
        open_daemon(config) as daemon,
        open_websocket(daemon.ws) as ws_a,
        open_websocket(daemon.ws) as ws_b,
        open_websocket(daemon.ws) as ws_all,
    ):
        a, b, everyone = Watching(ws_a), Watching(ws_b), Watching(ws_all)
        answer = await authenticate(ws_a, a, api_key="key-of-client-a")
        assert (answer["type"], answer["action"]) == ("ack", "authenticate")
        assert (await authenticate(ws_b, b, api_key="key-of-client-b", account="17"))["type"] == "ack"
        for client in (a, b, everyone):
            await client.subscribe("EURUSD", broker="venue")
            await client.subscribe("GBPUSD", broker="venue")
        assert bids(await ticks(a, 50)) == {2.0}
        assert bids(await ticks(b, 50)) == {3.0}
        assert bids(await ticks(everyone, 50)) == {1.0}
        numbers = [m["seq"] for m in await ticks(a, 20) if m["symbol"] == "GBPUSD"]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        await a.subscribe("EURUSD", broker="mock")  # other brokers as ever
        await a.until(lambda m: m["type"] == "tick" and m["broker"] == "mock")

        await daemon.wait_stored("EURUSD", 50)
        stored = await daemon.get(
            "/api/ticks", symbol="EURUSD", broker="venue", **{"from": 0, "to": 4_000_000_000}
        )
        assert {tick["bid"] for tick in stored.json()["ticks"]} == {1.0}
        assert list(await brokers_of(daemon)) == ["venue", "mock"]
        assert "mdserver_own_sessions 2.0" in (await daemon.get("/metrics")).text
        text = json.dumps(daemon.lines)
        assert "session opened" in text
        assert "key-of-client" not in text
        journal = b"".join(path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file())
        assert b"key-of-client" not in journal
        assert await daemon.stop() == 0


async def test_the_session_ends_with_the_client(config: Path) -> None:
    async with open_daemon(config) as daemon:
        async with open_websocket(daemon.ws) as ws:
            client = Watching(ws)
            await authenticate(ws, client, api_key="key-of-client-a")
            await client.subscribe("EURUSD", broker="venue")
            await ticks(client, 5)
        line = await daemon.wait_log("session closed")
        assert line["price"] == 2.0
        with trio.fail_after(60):
            while "mdserver_own_sessions 0.0" not in (await daemon.get("/metrics")).text:
                await trio.sleep(0.05)
        async with open_websocket(daemon.ws) as ws:  # the operator's own goes on, for others
            client = Watching(ws)
            await client.subscribe("EURUSD", broker="venue")
            assert bids(await ticks(client, 5)) == {1.0}
        assert await daemon.stop() == 0


async def test_a_refused_key_ends_the_connection_and_is_shown_nowhere(config: Path) -> None:
    async with open_daemon(config) as daemon:
        async with open_websocket(daemon.ws) as ws:
            client = Watching(ws)
            answer = await authenticate(ws, client, api_key="a-key-that-is-wrong")
            assert (answer["type"], answer["code"]) == ("error", 402)
            assert answer["message"] == "authentication failed: venue: the venue refuses the key ***"
            with pytest.raises(WebSocketClosed) as closed:
                await client.until(lambda _: False)
            assert closed.value.code == 1008
        assert (await brokers_of(daemon))["venue"]["state"] == "live"
        assert "a-key-that-is-wrong" not in json.dumps(daemon.lines)
        assert await daemon.stop() == 0


async def test_what_cannot_be_is_refused_by_name(config: Path) -> None:
    async with open_daemon(config) as daemon, open_websocket(daemon.ws) as ws:
        client = Watching(ws)
        for request, code, words in (
            ({"broker": "mock", "credentials": {"seed": "1"}}, 409, "mock takes no credentials of clients"),
            ({"broker": "nobody", "credentials": {"api_key": "x"}}, 408, "unknown broker"),
            ({"broker": "venue"}, 400, "credentials: expected an object"),
            ({"credentials": {}}, 400, "broker: expected a string"),
            ({"broker": "venue", "credentials": {}}, 400, "expected some of api_key, account"),
            ({"broker": "venue", "credentials": {"url": "ws://10.0.0.1"}}, 400, "credentials.url: unknown"),
            ({"broker": "venue", "credentials": {"api_key": 7}}, 400, "credentials.api_key: expected text"),
            ({"broker": "venue", "credentials": {"api_key": "x" * 5000}}, 400, "1 to 4096 characters"),
        ):
            await ws.send(json.dumps({"action": "authenticate", "id": "wrong", **request}))
            answer = (await client.until(lambda m: m.get("id") == "wrong"))[-1]
            assert (answer["code"], words in answer["message"]) == (code, True), answer
        await client.subscribe("EURUSD", broker="venue")
        answer = await authenticate(ws, client, api_key="key-of-client-a")
        assert (answer["code"], answer["message"]) == (
            400,
            "broker: first unsubscribe all topics of venue",
        )
        await ws.send(json.dumps({"action": "unsubscribe"}))
        assert (await authenticate(ws, client, api_key="key-of-client-a"))["type"] == "ack"
        answer = await client.subscribe("EURUSD", broker="venue", since=0)
        assert (answer["code"], "are not stored" in answer["message"]) == (410, True)
        assert await daemon.stop() == 0
