"""Brokers that come and go while clients are connected."""

from __future__ import annotations

import pytest
import trio

from mdserver.config import BrokerEntry
from mdserver.daemon.streaming import BrokersPart, streamed_types
from mdserver.feed.supervised_broker import SupervisedBroker
from mdserver.feed.supervisor import Supervisor
from mdserver.metrics import Metrics
from mdserver.model import Gap, LastRecord, Published, Tick, Topic
from mdserver.plugin import BrokerPlugin
from mdserver.stream.router import Router

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


async def test_one_that_comes_in_the_place_of_another_goes_on_with_its_numbers() -> None:
    emitted: list[Published] = []
    brokers: list[ScriptedBroker] = []
    gone = Topic("whom the config no longer names", "EURUSD", "tick")

    def make(_: object) -> ScriptedBroker:
        brokers.append(ScriptedBroker())
        return brokers[-1]

    metrics, supervisor = Metrics(), Supervisor()
    entry = BrokerEntry("x", "scripted", symbols=("EURUSD",))
    part = BrokersPart(
        [entry],
        {"scripted": BrokerPlugin("scripted", "", object, make)},
        supervisor,
        Router(metrics),
        metrics,
        emit=lambda: emitted.extend,
        last_records=lambda: {Topic("x", "EURUSD", "tick"): LastRecord(7, 0), gone: LastRecord(3, 5)},
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(part.run)
        for n in range(2):
            while len(brokers) <= n:
                await trio.sleep(0.01)
            await brokers[n].running.wait()
            brokers[n].publish(*(Tick("EURUSD", 1_700_000_000_000_000 + i, 1.0, 1.1) for i in range(3)))
            assert await supervisor.remove("x", "the config has changed")
            supervisor.add(part.make(entry))
        nursery.cancel_scope.cancel()
    records = [published for published in emitted if not isinstance(published.record, Gap)]
    assert [published.seq for published in records] == [8, 9, 10, 11, 12, 13]
    assert [one for one in emitted if one.topic == gone] == [
        Published(gone, 3, Gap(gone, 5, None, "restart"))
    ]


def test_what_is_not_stored_is_streamed_only_where_the_config_names_it() -> None:
    plugin = BrokerPlugin("x", "", object, lambda _: None, types=("tick", "trade", "orderbook"))
    books = BrokerPlugin("x", "", object, lambda _: None, types=("orderbook",))
    assert streamed_types(BrokerEntry("x", "x"), plugin) == ("tick", "trade")
    assert streamed_types(BrokerEntry("x", "x", types=("trade", "orderbook")), plugin) == (
        "trade",
        "orderbook",
    )
    assert streamed_types(BrokerEntry("x", "x"), books) == ("orderbook",)
