"""Numbers, gaps and refusals of one broker's records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from mdserver.errors import BadMessage
from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.metrics import Metrics
from mdserver.model import Feed, Gap, Instrument, LastRecord, OrderBook, Published, Tick, Topic, Trade

T0 = 1_710_918_000_000_000
EURUSD = Topic("x", "EURUSD", "tick")
FEED = Feed("EURUSD", "tick")


class Told:
    """What a host gave on, in order: seqs and gaps; those that last are in ``lasting``, with the place in the order."""

    def __init__(self, **last: LastRecord) -> None:
        self.events: list[int | Gap] = []
        self.lasting: list[tuple[int, Gap]] = []
        self.metrics = Metrics()
        self.demand = BrokerDemand()
        self.host = Host(
            "x",
            self.demand,
            emit=self._emit,
            last_records={Topic("x", symbol, "tick"): record for symbol, record in last.items()},
            metrics=self.metrics,
            log=structlog.get_logger(),
        )

    def _emit(self, batch: list[Published]) -> None:
        for published in batch:
            record = published.record
            if isinstance(record, Gap) and record.to_us is None:
                self.lasting.append((len(self.events), record))
            else:
                self.events.append(record if isinstance(record, Gap) else published.seq)

    def publish(self, *seconds: int) -> None:
        self.host.publish([Tick("EURUSD", T0 + second * 1_000_000, 1.1, 1.2) for second in seconds])

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mdserver_{name}", labels) or 0.0


def gap(from_s: int, to_s: int | None, cause: str) -> Gap:
    return Gap(EURUSD, T0 + from_s * 1_000_000, None if to_s is None else T0 + to_s * 1_000_000, cause)


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
    assert told.events == [1, gap(1, 9, "unsubscribed"), 2]


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


def test_a_hole_is_given_on_when_it_begins_and_once() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("disconnected")
    told.host.announce_holes()
    told.host.gap("silence")
    told.host.announce_holes()
    assert told.lasting == [(1, gap(1, None, "disconnected"))]
    told.publish(5)
    told.host.announce_holes()
    told.demand.release(FEED)
    told.demand.hold(FEED)
    told.demand.refuse([FEED], "gone")
    assert told.lasting[1:] == [(3, gap(5, None, "unsubscribed"))]
    assert told.events == [1, gap(1, 5, "disconnected"), 2]


def test_a_hole_that_lasted_when_the_server_ended_goes_on_with_its_cause() -> None:
    hole = gap(3, None, "disconnected")
    told = Told(
        EURUSD=LastRecord(127, T0 + 3_000_000, hole), GBPUSD=LastRecord(5, 0), USDJPY=LastRecord(9, T0)
    )
    (restart,) = (
        told.lasting
    )  # of what is in the ledger, or what nobody knows the time of, there is nothing to give on
    assert restart == (0, Gap(Topic("x", "USDJPY", "tick"), T0, None, "restart"))
    assert told.host.hole(FEED) == hole
    told.demand.hold(FEED)
    told.host.gap("silence")
    told.host.announce_holes()
    assert told.host.hole(FEED) == hole
    told.publish(8)
    assert told.events == [gap(3, 8, "disconnected"), 128]
    assert len(told.lasting) == 1
    assert told.host.last_records() == {EURUSD: LastRecord(128, T0 + 8_000_000)}
    told.host.gap("disconnected")
    assert told.host.last_records()[EURUSD].hole == gap(8, None, "disconnected")


def test_a_restart_makes_a_gap_behind_what_was_stored() -> None:
    told = Told(EURUSD=LastRecord(127, T0))
    told.demand.hold(FEED)
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


def crossed(second: int) -> Tick:
    return Tick("EURUSD", T0 + second * 1_000_000, 1.2, 1.1)


def good(second: int) -> Tick:
    return Tick("EURUSD", T0 + second * 1_000_000, 1.1, 1.2)


def test_rejected_records_are_a_gap_with_their_number() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.host.publish([crossed(0), good(1), crossed(2), crossed(3), good(4), good(5), crossed(6)])
    rejected = msgspec.structs.replace(gap(1, 4, "rejected"), size=2)
    assert told.events == [1, rejected, 2, 3]
    assert told.lasting == [(4, msgspec.structs.replace(gap(5, None, "rejected"), size=1))], (
        "one that lasts is told"
    )
    told.host.publish([crossed(7)])
    assert len(told.lasting) == 1
    told.host.gap("missed", [FEED], size=4)
    told.publish(9)
    assert told.events[4:] == [gap(5, 9, "rejected"), 4], "of two causes in one nobody knows the sum"
    told.host.gap("missed", [FEED], size=4)
    told.host.publish([crossed(10), good(11)])
    assert told.events[6:] == [gap(9, 11, "missed"), 5]


def test_behind_a_message_that_could_not_be_decoded_each_feed_that_is_served_has_a_gap() -> None:
    told = Told()
    other = Feed("GBPUSD", "tick")
    told.demand.hold(FEED)
    told.demand.hold(other)
    told.host.discard(BadMessage("?"))
    told.host.publish([good(1), Tick("GBPUSD", T0, 1.1, 1.2)])
    told.demand.release(other)
    told.host.discard(BadMessage("?"))
    told.publish(2)
    told.demand.hold(other)
    told.host.publish([Tick("GBPUSD", T0 + 1, 1.1, 1.2)])
    assert told.events[:4] == [1, 1, gap(1, 2, "discarded"), 2]
    assert told.events[4:] == [Gap(Topic("x", "GBPUSD", "tick"), T0, T0 + 1, "unsubscribed"), 2]


def test_a_bad_message_that_is_asked_for_again_is_counted_and_makes_no_gap() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    seen_s = told.host.last_event_s
    told.host.discard(BadMessage("?"), asked_again=True)
    assert told.host.last_event_s == seen_s, "no sign of life"
    told.publish(2)
    assert told.events == [1, 2]
    assert told.value("messages_discarded_total", broker="x") == 1
    told.host.discard(BadMessage("?"))
    told.publish(3)
    assert told.events == [1, 2, gap(2, 3, "discarded"), 3]


def test_a_change_of_a_full_book_follows_nothing_but_a_whole_one() -> None:
    """Whatever was missed: let go and wanted again before the broker looked, a rejected change, a lost message."""
    told, asked = Told(), list[str]()
    told.host.renew_books = asked.extend
    feed = Feed("EURUSD", "orderbook", "full")

    def publish(second: int, action: str, bid: float = 1.1) -> None:
        book = OrderBook("EURUSD", T0 + second * 1_000_000, ((bid, 1.0),), (), action, "full")  # type: ignore[arg-type]
        told.host.publish([book])

    def hole(from_s: int, to_s: int, cause: str, size: int | None = None) -> Gap:
        return Gap(Topic("x", *feed), T0 + from_s * 1_000_000, T0 + to_s * 1_000_000, cause, size)

    told.demand.hold(feed)
    publish(1, "update")
    publish(1, "snapshot")
    publish(2, "update")
    told.demand.release(feed)
    told.demand.hold(feed)
    publish(3, "update")
    publish(4, "update")
    assert asked == ["EURUSD", "EURUSD"], "not with each one"
    assert told.value("records_rejected_total", broker="x", reason="no_snapshot") == 3
    publish(5, "snapshot")
    publish(6, "update")
    assert told.events == [1, 2, hole(2, 5, "unsubscribed"), 3, 4]
    publish(7, "update", bid=-1.0)
    publish(8, "update")
    publish(9, "snapshot")
    assert told.events[5:] == [hole(6, 9, "rejected", 1), 5]
    told.host.discard(BadMessage("?"))
    publish(10, "update")
    publish(11, "snapshot")
    assert told.events[7:] == [hole(9, 11, "discarded"), 6]
    assert asked == ["EURUSD"] * 4


def test_a_record_of_the_wrong_type_spoils_no_other() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.demand.hold(Feed("EURUSD", "trade"))
    bad: list[Any] = [
        Trade("EURUSD", T0, 1.1, 1.0, "BUY"),
        Tick(None, T0, 1.1, 1.2),
        Tick("\ud83d", T0, 1.1, 1.2),
    ]
    good = [Tick("EURUSD", T0 + n, 1.1, 1.2) for n in range(2)]
    told.host.publish([good[0], *bad, good[1]])
    assert told.events == [1, 2]
    assert told.value("records_rejected_total", broker="x", reason="type") == 2
    assert told.value("records_rejected_total", broker="x", reason="symbol") == 1


def test_texts_of_a_plugin_that_cannot_be_written_are_made_so() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.host.refuse([FEED], "no \ud83d")
    assert told.demand.refused() == {FEED: "no ?"}
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("a\0b")  # PostgreSQL holds no NUL, and the gap would be lost
    told.publish(2)
    assert told.events == [1, gap(1, 2, "a?b"), 2]


def test_clients_cannot_fill_the_log_with_what_is_refused() -> None:
    with capture_logs() as logs:
        told = Told()
        told.demand.pin([FEED])
        for number in range(50):
            feed = Feed(f"NO{number}", "tick")
            told.demand.hold(feed)
            told.host.refuse([feed], f"there is no NO{number}")
            told.host.refuse([FEED], "no permission")
    of_config = [log for log in logs if log["event"] == "feeds refused"]
    assert len(of_config) == 50
    assert all(log["feeds"] == ["EURUSD tick"] for log in of_config)
    (of_clients,) = [log for log in logs if log["event"] != "feeds refused"]
    assert (of_clients["feeds"], of_clients["reason"]) == (["NO0 tick"], "there is no NO0")
    assert told.value("feeds_refused_total", broker="x") == 100


def test_numbers_are_given_to_what_was_accepted_and_to_nothing_else() -> None:
    told = Told()
    told.demand.hold(FEED)
    good = [Tick("EURUSD", T0 + n, 1.1, 1.2) for n in range(3)]
    junk: list[Any] = [None, 7, {}, Instrument("EURUSD", "x"), Tick(["EURUSD"], T0, 1.1, 1.2)]  # type: ignore[arg-type]
    told.host.publish([good[0], good[1], *junk])
    told.host.publish([good[2]])
    assert told.events == [1, 2, 3]
    assert told.value("records_rejected_total", broker="x", reason="type") == len(junk)


def test_what_was_accepted_goes_out_though_the_batch_breaks_off() -> None:
    """A batch that is made on the way may fail in the middle: the numbers given so far are not lost."""
    told = Told()
    told.demand.hold(FEED)

    def batch() -> Iterator[Tick]:
        yield Tick("EURUSD", T0, 1.1, 1.2)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        told.host.publish(batch())  # type: ignore[arg-type]
    told.publish(1)
    assert told.events == [1, 2]


@pytest.mark.parametrize(
    ("symbol", "reason"),
    [("cha/os", "symbol"), ("eurusd", "symbol"), ("A" * 33, "symbol"), ("", "symbol"), ("X\0", "symbol")],
)
def test_symbols_that_no_query_can_name_are_not_taken(symbol: str, reason: str) -> None:
    told = Told()
    told.demand.hold(Feed(symbol, "tick"))
    told.host.publish([Tick(symbol, T0, 1.1, 1.2)])
    assert told.events == []
    assert told.value("records_rejected_total", broker="x", reason=reason) == 1


def test_a_name_outside_of_ascii_that_a_venue_lists_is_a_symbol() -> None:
    told = Told()
    told.demand.hold(Feed("币安人生USDT", "tick"))
    told.host.publish([Tick("币安人生USDT", T0, 1.1, 1.2)])
    assert told.events == [1]


def test_records_of_feeds_that_nobody_wants_are_counted_and_taken_nowhere() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    with capture_logs() as logs:
        told.demand.release(FEED)
        told.publish(2, 3)  # was on its way
    assert logs == []
    with capture_logs() as logs:
        told.host.publish([Tick(f"X{n}", T0, 1.1, 1.2) for n in range(1_000)])
    assert told.events == [1]
    assert told.value("records_unwanted_total", broker="x") == 1_002
    assert [entry["event"] for entry in logs] == ["records of a feed without subscribers discarded"]
    assert len(list(told.host._all_lines())) == 1, "nothing is remembered of them"
    told.demand.hold(FEED)
    told.publish(5)
    assert told.events == [1, gap(1, 5, "unsubscribed"), 2]


def test_the_log_of_a_rejected_record_is_short() -> None:
    told = Told()
    feed = Feed("EURUSD", "trade")
    told.demand.hold(feed)
    with capture_logs() as logs:
        told.host.publish([Trade("EURUSD", T0, 1.1, 1.0, None, "7" * 5_000_000)])
    assert told.value("records_rejected_total", broker="x", reason="trade_id") == 1
    assert len(str(logs)) < 1_000


def test_kinds_of_messages_that_are_not_used_are_bounded() -> None:
    told = Told()
    for n in range(5_000):
        told.host.ignored(f"kind {n}")
    told.host.ignored("kind 3")
    kinds = [
        sample.labels["kind"]
        for family in told.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "mdserver_messages_ignored_total"
    ]
    assert len(kinds) == 101
    assert told.value("messages_ignored_total", broker="x", kind="other") == 4_900
    assert told.value("messages_ignored_total", broker="x", kind="kind 3") == 2


@pytest.mark.parametrize(
    ("time_us", "reason"),
    [
        (T0 // 1_000, "time_in_ms"),
        (T0 // 1_000_000, "time_in_s"),
        (T0 * 1_000, "time_in_ns"),
        (631_151_999_999_999, "time"),
        (1, "time"),
    ],
)
def test_a_time_in_another_unit_is_not_taken_and_named(time_us: int, reason: str) -> None:
    told = Told()
    told.demand.hold(FEED)
    told.host.publish([Tick("EURUSD", time_us, 1.1, 1.2)])
    assert told.events == []
    assert told.value("records_rejected_total", broker="x", reason=reason) == 1


def test_the_size_of_a_hole_is_told_where_it_is_known() -> None:
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("missed", [FEED], size=3)
    told.publish(2)
    told.host.gap("missed", [FEED], size=3)
    told.host.gap("missed", [FEED], size=4)  # of a second hole in the same place nobody knows the sum
    told.publish(5)
    sizes = [event.size for event in told.events if isinstance(event, Gap)]
    assert sizes == [3, None]
    assert told.value("records_published_total", broker="x") == 3, "a gap is no record"


@pytest.mark.parametrize("size", [-1, 2**63, 2.5, "7", True])
def test_a_size_that_is_none_counts_as_unknown(size: Any) -> None:
    """The database would refuse it, and with it the gap."""
    told = Told()
    told.demand.hold(FEED)
    told.publish(1)
    told.host.gap("missed", [FEED], size=size)
    told.publish(2)
    assert told.events == [1, gap(1, 2, "missed"), 2]


def test_a_hole_is_there_from_its_beginning_until_a_record_follows() -> None:
    told = Told(GBPUSD=LastRecord(5, T0))
    assert told.host.hole(FEED) is None
    assert told.host.hole(Feed("GBPUSD", "tick")) == Gap(Topic("x", "GBPUSD", "tick"), T0, None, "restart")
    told.demand.hold(FEED)
    told.publish(1)
    assert told.host.hole(FEED) is None
    told.host.gap("disconnected")
    assert told.host.hole(FEED) == Gap(EURUSD, T0 + 1_000_000, None, "disconnected")
    told.publish(2)
    assert told.host.hole(FEED) is None
    told.demand.release(FEED)
    assert told.host.hole(FEED) == Gap(EURUSD, T0 + 2_000_000, None, "unsubscribed")


def test_causes_are_bounded() -> None:
    told = Told()
    told.demand.hold(FEED)
    for n in range(150):
        told.publish(n)
        told.host.gap(f"cause {n} " + "x" * 1_000)
    assert all(len(event.cause) <= 40 for event in told.events if isinstance(event, Gap))
    assert told.value("gaps_total", broker="x", cause="other") == 49


def test_a_broker_cannot_publish_a_gap() -> None:
    told = Told()
    told.host.publish([gap(1, 2, "made up")])  # type: ignore[list-item]
    assert told.events == []
    assert told.value("records_rejected_total", broker="x", reason="type") == 1
