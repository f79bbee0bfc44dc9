"""Brokers that come and go while clients are connected."""

from __future__ import annotations

import pytest

from mdserver.feed.supervisor import SupervisedBroker

from .conftest import ScriptedBroker, make_supervised, open_client, open_stream_server


async def test_a_broker_that_comes_is_there_for_clients_that_were_connected() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        answer = await client.ask({"action": "subscribe", "symbols": ["EURUSD"], "broker": "two"})
        assert answer["code"] == 408
        broker = ScriptedBroker()
        server.supervisor.add(make_supervised("two", broker, server.router, server.metrics))
        await broker.running.wait()
        answer = await client.ask({"action": "subscribe", "symbols": ["EURUSD"], "broker": "two"})
        assert answer["results"][0]["status"] in ("pending", "active")
        if answer["results"][0]["status"] == "pending":
            assert (await client.get())["results"][0]["status"] == "active"


@pytest.mark.parametrize("others", [0, 1])
async def test_subscribers_of_one_that_goes_get_the_next_or_are_told(others: int) -> None:
    names = ("one", "two")[: 1 + others]
    async with open_stream_server(names) as server, open_client(server.url) as client:
        answer = await client.subscribe("EURUSD")
        while answer["results"][0]["status"] == "pending":
            answer = await client.get()
        assert answer["results"][0]["broker"] == "one"
        gone: SupervisedBroker = server.supervisor.brokers["one"]
        assert await server.supervisor.remove("one", "removed from the config")
        assert gone.demand.current() == frozenset()
        answer = await client.get()
        while answer["type"] == "status":
            answer = await client.get()
        result = answer["results"][0]
        assert (result["status"], result["code"]) == ("error", 408)
        assert "removed from the config" in result["message"]
        again = await client.subscribe("EURUSD")
        while again["results"][0]["status"] == "pending":
            again = await client.get()
        assert again["results"][0]["status"] == ("active" if others else "error")
        if others:
            assert again["results"][0]["broker"] == "two"
