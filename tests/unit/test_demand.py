"""Reference counts and the venue's answers."""

from __future__ import annotations

from collections import Counter

import trio
from hypothesis import given
from hypothesis import strategies as st

from mdserver.feed.demand import BrokerDemand, FeedChange
from mdserver.model import Feed, Instrument

A, B = Feed("A", "tick"), Feed("B", "trade")


def test_pinned_feeds_are_wanted_from_the_start_and_for_ever() -> None:
    demand = BrokerDemand([A])
    demand.hold(A)
    demand.release(A)
    assert demand.current() == {A}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([A, B]))))
def test_wanted_are_exactly_the_held(steps: list[tuple[bool, Feed]]) -> None:
    demand, held = BrokerDemand(), Counter[Feed]()
    for hold, feed in steps:
        if hold:
            demand.hold(feed)
            held[feed] += 1
        elif held[feed]:
            demand.release(feed)
            held[feed] -= 1
    assert demand.current() == {feed for feed, count in held.items() if count}


def test_a_refused_feed_is_wanted_no_more_until_asked_for_again() -> None:
    demand = BrokerDemand([A])
    seen = []
    demand.watch(seen.extend)
    demand.refuse([A], "no such thing")
    assert demand.current() == frozenset()
    assert demand.refused() == {A: "no such thing"}
    assert seen == [(A, "refused", "no such thing")]
    assert demand.hold(A) == "pending"
    assert demand.current() == {A}


def test_what_is_asked_for_again_has_no_reason_left() -> None:
    demand = BrokerDemand([A, B])
    demand.refuse([A, B], "no such thing")
    demand.hold(A)
    demand.confirm([B])
    assert not demand.refused()


def test_what_changes_at_once_is_told_at_once() -> None:
    demand = BrokerDemand([A, B])
    told: list[list[FeedChange]] = []
    demand.watch(lambda changes: told.append(list(changes)))
    demand.confirm([A, B])
    demand.confirm([A, B])  # nothing new
    demand.refuse([A, B], "gone")
    assert told == [
        [FeedChange(A, "active"), FeedChange(B, "active")],
        [FeedChange(A, "refused", "gone"), FeedChange(B, "refused", "gone")],
    ]


def test_what_was_active_waits_when_its_session_ends() -> None:
    demand = BrokerDemand([A, B])
    demand.confirm([A])
    demand.refuse([B], "not now")
    demand.end_session()
    assert demand.status(A) == "pending"
    assert demand.status(B) == "refused"
    assert demand.hold(A) == "pending"


def test_a_symbol_that_is_listed_again_is_asked_for_again() -> None:
    demand = BrokerDemand([A, B])
    a, b = (Instrument(symbol, symbol) for symbol in "AB")
    demand.confirm([A, B])
    assert demand.set_instruments([b]) == {A: "the venue has no symbol A"}
    assert demand.current() == {B}
    demand.refuse([B], "for another reason")
    assert demand.set_instruments([a, b]) == {}
    assert demand.current() == {A}
    assert demand.status(A) == "pending"
    assert demand.refused() == {B: "for another reason"}


def test_a_new_session_asks_for_everything_once_more() -> None:
    demand = BrokerDemand([A, B])
    demand.confirm([A])
    demand.refuse([B], "not now")
    assert demand.count() == 1
    demand.begin_session()
    assert demand.current() == {A, B}
    assert demand.count() == 0
    assert not demand.refused()


def test_an_instrument_list_refuses_unknown_symbols() -> None:
    demand = BrokerDemand([A, B])
    assert demand.has("A") is None
    demand.set_instruments([Instrument("A", "a")])
    assert demand.current() == {A}
    assert demand.has("A") is True
    assert demand.has("B") is False


def test_a_broker_that_serves_only_its_symbols_has_no_other() -> None:
    demand = BrokerDemand([A], only={"A"})
    assert demand.has("A") is None
    assert demand.has("B") is False
    demand.set_instruments([Instrument("A", "a"), Instrument("B", "b")])
    assert demand.has("A") is True
    assert demand.has("B") is False
    demand.pin([A])
    assert demand.has("B") is True


def test_confirming_what_nobody_holds_changes_nothing() -> None:
    demand = BrokerDemand()
    demand.confirm([A])
    demand.refuse([A], "x")
    assert demand.count() == 0
    assert not demand.refused()


async def test_wait_changed_returns_at_once_or_when_it_changes(autojump_clock: object) -> None:
    demand = BrokerDemand([A])
    assert await demand.wait_changed(frozenset()) == {A}
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(5)
            demand.hold(B)

        nursery.start_soon(later)
        assert await demand.wait_changed(frozenset([A])) == {A, B}
        assert trio.current_time() > 0
