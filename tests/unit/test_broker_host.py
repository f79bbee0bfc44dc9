"""Numbers, gaps and refusals of one broker's records."""

from __future__ import annotations

from typing import Any

import structlog

from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.metrics import Metrics
from mdserver.model import Feed, Gap, Instrument, LastRecord, Published, Tick, Topic, Trade

T0 = 1_710_918_000_000_000
EURUSD = Topic("x", "EURUSD", "tick")
FEED = Feed("EURUSD", "tick")


class Told:
    """What a host gave on, in order: seqs and gaps."""

    def __init__(self, **last: LastRecord) -> None:
        self.events: list[int | Gap] = []
        self.metrics = Metrics()
        self.demand = BrokerDemand()
        self.host = Host(
            "x",
            self.demand,
            emit=self._emit,
            announce=self.events.append,
            last_records={Topic("x", symbol, "tick"): record for symbol, record in last.items()},
            metrics=self.metrics,
            log=structlog.get_logger(),
        )

    def _emit(self, batch: list[Published]) -> None:
        self.events += [published.seq for published in batch]

    def publish(self, *seconds: int) -> None:
        self.host.publish([Tick("EURUSD", T0 + second * 1_000_000, 1.1, 1.2) for second in seconds])

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mdserver_{name}", labels) or 0.0


def gap(from_s: int, to_s: int, cause: str) -> Gap:
    return Gap(EURUSD, T0 + from_s * 1_000_000, T0 + to_s * 1_000_000, cause)


def test_what_comes_after_nobody_wanted_it_follows_a_gap() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1, 2)
    told.demand.release(FEED)
    told.demand.hold(FEED)
    told.publish(9)
    told.publish(10)
    assert told.events == [1, 2, gap(2, 9, "unsubscribed"), 3, 4]
    assert told.value("gaps_total", broker="x", cause="unsubscribed") == 1


def test_what_was_on_its_way_does_not_end_a_hole() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.demand.release(FEED)
    told.publish(2)  # the venue has not heard of it yet
    told.demand.hold(FEED)
    told.demand.confirm([FEED])
    told.publish(9)
    assert told.events == [1, 2, gap(2, 9, "unsubscribed"), 3]


def test_a_record_confirms_its_feed() -> None:
    told = Told()
    assert told.demand.hold(FEED) == "pending"
    told.publish(1)
    assert told.demand.status(FEED) == "active"
    told.demand.end_session()
    told.host.gap("disconnected")
    told.publish(2)
    assert told.demand.status(FEED) == "active"
    told.demand.release(FEED)
    told.demand.hold(FEED)  # before the broker looked: it will not confirm what it has
    told.publish(3)
    assert told.demand.status(FEED) == "active"
    told.demand.refuse([FEED], "gone")
    told.publish(4)  # was on its way: does not make it wanted again
    assert told.demand.current() == frozenset()


def test_a_hole_of_one_feed_is_not_one_of_the_others() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("missed", [Feed("EURUSD", "trade"), Feed("GBPUSD", "tick")])
    told.publish(2)
    told.host.gap("missed", [FEED])
    told.publish(5)
    assert told.events == [1, 2, gap(2, 5, "missed"), 3]


def test_one_of_two_holders_leaving_makes_no_gap() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.demand.hold(FEED)
    told.publish(1)
    told.demand.release(FEED)
    told.publish(2)
    assert told.events == [1, 2]


def test_a_restart_makes_a_gap_behind_what_was_stored() -> None:
    told = Told(EURUSD=LastRecord(127, T0))
    told.publish(8, 9)
    assert told.events == [gap(0, 8, "restart"), 128, 129]


def test_a_broker_may_say_that_records_are_missing() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("disconnected")
    told.publish(4)
    assert told.events == [1, gap(1, 4, "disconnected"), 2]


def test_the_first_cause_counts_and_what_never_came_has_no_gap() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.host.gap("disconnected")
    told.publish(1)
    told.demand.release(FEED)
    told.host.gap("disconnected")
    told.demand.hold(FEED)
    told.publish(2)
    assert told.events == [1, gap(1, 2, "unsubscribed"), 2]


def test_of_two_causes_while_nothing_comes_the_first_counts() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("disconnected")
    told.host.gap("sequence")
    told.publish(2)
    assert told.events == [1, gap(1, 2, "disconnected"), 2]


def test_a_symbol_that_is_not_listed_any_more_is_counted_and_makes_a_gap() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.instruments([])
    assert told.value("feeds_refused_total", broker="x") == 1
    told.host.instruments([Instrument("EURUSD", "EUR_USD")])
    told.publish(5)
    assert told.events == [1, gap(1, 5, "refused"), 2]


def test_a_record_of_the_wrong_type_spoils_no_other() -> None:
    told = Told()
    bad: list[Any] = [
        Trade("EURUSD", T0, 1.1, 1.0, "BUY"),
        Tick(None, T0, 1.1, 1.2),
        Tick("\ud83d", T0, 1.1, 1.2),
    ]
    good = [Tick("EURUSD", T0 + n, 1.1, 1.2) for n in range(2)]
    told.host.publish([good[0], *bad, good[1]])
    assert told.events == [1, 2]
    assert told.value("records_rejected_total", broker="x", reason="type") == 3


def test_texts_of_a_plugin_that_cannot_be_written_are_made_so() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.host.refuse([FEED], "no \ud83d")
    assert told.demand.refused() == {FEED: "no ?"}
