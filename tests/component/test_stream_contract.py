"""What a request may rely on: one fault spoils nothing else, errors name their request, nothing is ignored."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio
from trio_websocket import connect_websocket_url

from .conftest import Client, open_client, open_stream_server


def outcomes(ack: dict[str, Any]) -> list[tuple[str, str, str, int | None]]:
    assert ack["type"] == "ack", ack
    return [(r["symbol"], r["type"], r["status"], r.get("code")) for r in ack["results"]]


async def test_the_first_message_tells_protocol_server_and_time() -> None:
    async with open_stream_server() as server, trio.open_nursery() as nursery:
        connection = await connect_websocket_url(nursery, server.url)
        hello = json.loads(await connection.get_message())
        assert hello["type"] == "status"
        assert hello["message"] == "Connected to Market Data Server"
        assert hello["protocol"] == 1
        assert hello["server"].startswith("mdserver/")
        assert abs(hello["time"] - time.time()) < 60
        await connection.aclose()


async def test_a_malformed_symbol_spoils_no_other() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("EUR/USD", "NOSUCH!!", "", id="q")
        assert ack["id"] == "q"
        assert outcomes(ack) == [
            ("EURUSD", "tick", "pending", None),
            ("NOSUCH!!", "tick", "error", 408),
            ("", "tick", "error", 408),
        ]
        assert "NOSUCH!!" in ack["results"][1]["message"]
        assert [one["symbol"] for one in ack["subscriptions"]] == ["EURUSD"]
        assert outcomes(await client.get()) == [("EURUSD", "tick", "active", None)]


async def test_an_unknown_type_spoils_no_other() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("EURUSD", types=["tock", "trade"])
        assert outcomes(ack) == [("EURUSD", "tock", "error", 408), ("EURUSD", "trade", "pending", None)]
        assert "tick, trade" in ack["results"][0]["message"]


async def test_what_is_no_string_spoils_no_other() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.ask({"action": "subscribe", "symbols": [1, "EURUSD", None], "types": ["tick", {}]})
        states = {(symbol, kind): (status, code) for symbol, kind, status, code in outcomes(ack)}
        assert states["EURUSD", "tick"] == ("pending", None)
        assert {code for (status, code) in states.values() if status == "error"} == {400}


async def test_only_bad_names_subscribe_to_nothing() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        assert {code for *_, code in outcomes(await client.subscribe("!!", types=["tock"]))} == {408}
        assert (await client.ask({"action": "list"}))["subscriptions"] == []


async def test_unsubscribe_answers_each_name_too() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.subscribe("EURUSD", "GBPUSD")
        await client.get()
        ack = await client.ask(
            {"action": "unsubscribe", "symbols": ["EUR/USD", "NOSUCH!!", "USDJPY"], "id": 3}
        )
        assert ack["id"] == 3
        assert outcomes(ack) == [
            ("EURUSD", "tick", "removed", None),
            ("NOSUCH!!", "tick", "error", 408),
            ("USDJPY", "tick", "error", 408),
        ]
        ack = await client.ask({"action": "unsubscribe", "types": ["tock"]})
        assert outcomes(ack) == [("*", "tock", "error", 408)]
        assert [one["symbol"] for one in ack["subscriptions"]] == ["GBPUSD"]
        ack = await client.ask({"action": "unsubscribe", "types": ["tock", "tick"]})
        assert ack["subscriptions"] == []


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"action": "subscribe", "symbols": ["E"], "broker": "x"}, 408),
        ({"action": "unsubscribe", "symbols": ["E"], "broker": "x"}, 408),
        ({"action": "explode"}, 400),
        ({"action": "subscribe"}, 400),
        ({"action": "subscribe", "symbols": ["E"], "since": 5}, 410),
        ({"action": "subscribe", "symbols": ["A", "B", "C"]}, 405),
        ({"action": "auth", "key": "k"}, 400),
        ({"action": "auth"}, 400),
    ],
)
async def test_every_error_carries_the_id_of_its_request(request_: dict[str, Any], code: int) -> None:
    async with open_stream_server(max_symbols=2) as server, open_client(server.url) as client:
        for given in ("text", 7, 0, ""):
            error = await client.ask(request_ | {"id": given})
            while error["type"] != "error":
                error = await client.get()
            assert (error["code"], error["id"]) == (code, given)


async def test_a_server_that_stores_nothing_says_so_in_the_answer_too() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("EURUSD", "GBPUSD", since=5)
        assert [(one["recovered"], one["code"]) for one in ack["results"]] == [(False, 410)] * 2
        assert all("database.store is false" in one["message"] for one in ack["results"])
        assert {one["status"] for one in ack["results"]} == {"pending"}
        messages = [await client.get() for _ in range(2)]
        assert sorted(one.get("code", 0) for one in messages) == [0, 410]


async def test_an_error_of_ours_carries_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        (session,) = server.clients.sessions
        monkeypatch.setattr(session._held, "symbols", lambda: 1 / 0)
        error = await client.subscribe("EURUSD", id=5)
        assert (error["code"], error["id"]) == (500, 5)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"interval": "1m"}, "interval"),
        ({"interval": "1m", "types": ["tick", "trade"]}, "interval"),
        ({"tpyes": ["tick"]}, "tpyes"),
        ({"key": "k"}, "key"),
    ],
)
async def test_unknown_and_misplaced_fields_are_named(fields: dict[str, Any], names: str) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        for action in ("subscribe", "unsubscribe"):
            error = await client.ask({"action": action, "symbols": ["EURUSD"], "id": 1, **fields})
            assert (error["type"], error["code"], error["id"]) == ("error", 400, 1)
            assert names in error["message"]
        assert (await client.ask({"action": "list"}))["subscriptions"] == []


async def test_a_key_is_not_accepted_where_there_are_none() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        error = await client.ask({"action": "auth", "key": "anything", "id": 1})
        assert (error["type"], error["code"]) == ("error", 400)
        assert "no keys" in error["message"]
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_many_types_are_refused_before_they_are_answered() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        error = await client.subscribe("EURUSD", types=[f"t{n}" for n in range(17)])
        assert (error["code"], "at most 16" in error["message"]) == (400, True)


async def test_symbols_that_cannot_be_served_take_no_room() -> None:
    async with open_stream_server(max_symbols=2) as server, open_client(server.url) as client:
        await subscribe_and_wait(client, "A")
        assert outcomes(await client.subscribe("!", "B")) == [
            ("!", "tick", "error", 408),
            ("B", "tick", "pending", None),
        ]


async def subscribe_and_wait(client: Client, symbol: str) -> None:
    await client.subscribe(symbol)
    await client.get()
