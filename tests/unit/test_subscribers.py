"""Who holds what: by topic for what a venue says, by broker for how it is."""

from __future__ import annotations

from time import process_time

from mdserver.model import Topic
from mdserver.web.stream.subscribers import Subscribers


class Client:
    def __init__(self) -> None:
        self.told: list[bytes] = []

    def tell(self, frames: bytes) -> None:
        self.told.append(frames)

    def feeds_changed(self, broker: str, changes: object) -> None:
        raise AssertionError((broker, changes))


def test_a_client_belongs_to_a_broker_as_long_as_it_holds_a_topic_of_it() -> None:
    subscribers, one, other = Subscribers(), Client(), Client()
    ticks, trades, elsewhere = Topic("a", "X", "tick"), Topic("a", "X", "trade"), Topic("b", "X", "tick")
    for topic in (ticks, trades, ticks):  # held twice is held once
        subscribers.add(topic, one)
    subscribers.add(elsewhere, other)
    assert set(subscribers.of_broker("a")) == {one}
    assert set(subscribers.of_broker("b")) == {other}
    subscribers.discard(ticks, one)
    subscribers.discard(ticks, one)
    assert set(subscribers.of_broker("a")) == {one}
    subscribers.discard(trades, one)
    assert not subscribers.of_broker("a")
    assert not subscribers.of_broker("never heard of")


def test_finding_a_brokers_clients_does_not_take_longer_with_their_topics() -> None:
    subscribers = Subscribers()
    for _ in range(500):
        client = Client()
        for number in range(100):
            subscribers.add(Topic("a", f"S{number}", "tick"), client)
    for _ in range(500):
        subscribers.add(Topic("b", "X", "tick"), Client())
    began = process_time()
    for _ in range(1000):
        assert len(subscribers.of_broker("b")) == 500
    assert process_time() - began < 0.5  # a look at each topic would take 1000 times 2 ms
