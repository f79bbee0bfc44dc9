"""The subscription planner, driven by hand."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import Feed
from mdserver_binance.codec import Reply
from mdserver_binance.subscriptions import Ledger, Subscriptions


def ticks(*symbols: str) -> frozenset[Feed]:
    return frozenset(Feed(symbol, "tick") for symbol in symbols)


def take(subscriptions: Subscriptions) -> tuple[str, list[str], int]:
    raw = subscriptions.next_request()
    assert raw is not None
    request = json.loads(raw)
    return request["method"], request["params"], request["id"]


def test_one_request_carries_many_streams() -> None:
    subscriptions = Subscriptions(Ledger(), "aggTrade")
    assert subscriptions.plan(ticks("A", "B") | {Feed("A", "trade")}, None) == {}
    method, names, id_ = take(subscriptions)
    assert (method, names) == ("SUBSCRIBE", ["a@bookTicker", "a@aggTrade", "b@bookTicker"])
    assert subscriptions.answered(Reply(id_)) == ticks("A", "B") | {Feed("A", "trade")}
    subscriptions.plan(subscriptions.active, None)
    assert not subscriptions.due
    assert subscriptions.next_request() is None


def test_unsubscribes_before_it_subscribes() -> None:
    subscriptions = Subscriptions(Ledger(), "trade")
    subscriptions.plan(ticks("A"), None)
    subscriptions.answered(Reply(take(subscriptions)[2]))
    subscriptions.plan(ticks("B"), None)
    method, names, id_ = take(subscriptions)
    assert (method, names) == ("UNSUBSCRIBE", ["a@bookTicker"])
    assert subscriptions.answered(Reply(id_)) == frozenset()
    subscriptions.plan(ticks("B"), None)
    assert take(subscriptions)[:2] == ("SUBSCRIBE", ["b@bookTicker"])


def test_large_sets_go_in_batches_up_to_the_cap() -> None:
    subscriptions = Subscriptions(Ledger(), "trade", limit=250)
    wanted = ticks(*(f"S{n:04}" for n in range(300)))
    refused = subscriptions.plan(wanted, None)
    assert len(refused) == 50
    assert "allows 250 streams" in next(iter(refused.values()))
    sizes = []
    while subscriptions.due:
        _, names, id_ = take(subscriptions)
        sizes.append(len(names))
        subscriptions.answered(Reply(id_))
        assert subscriptions.plan(wanted, None) == {}  # told once
    assert sizes == [100, 100, 50]


def test_a_feed_beyond_the_cap_gets_a_place_that_becomes_free() -> None:
    subscriptions = Subscriptions(Ledger(), "trade", limit=1)
    assert subscriptions.plan(ticks("A", "B"), None).keys() == ticks("B")
    subscriptions.answered(Reply(take(subscriptions)[2]))
    subscriptions.plan(ticks("B"), None)
    subscriptions.answered(Reply(take(subscriptions)[2]))
    subscriptions.plan(ticks("B"), None)
    assert subscriptions.answered(Reply(take(subscriptions)[2])) == ticks("B")


def test_unknown_and_impossible_symbols_are_never_asked_for() -> None:
    subscriptions = Subscriptions(Ledger(), "trade")
    refused = subscriptions.plan(ticks("A", "GONE", "B@D", "", "两"), frozenset({"A", "两"}))
    assert refused.keys() == ticks("GONE", "B@D", "")
    assert take(subscriptions)[1] == ["a@bookTicker", "两@bookTicker"]


def test_a_reply_to_something_else_changes_nothing() -> None:
    subscriptions = Subscriptions(Ledger(), "trade")
    assert subscriptions.answered(Reply(1)) is None
    subscriptions.plan(ticks("A"), None)
    _, _, id_ = take(subscriptions)
    assert subscriptions.answered(Reply(id_ + 1)) is None
    assert subscriptions.answered(Reply(id_)) == ticks("A")


def test_an_error_without_an_id_belongs_to_the_request_in_flight() -> None:
    ledger = Ledger()
    subscriptions = Subscriptions(ledger, "trade")
    subscriptions.plan(ticks("A"), None)
    take(subscriptions)
    assert subscriptions.answered(Reply(None, "no")) == frozenset()
    assert subscriptions.plan(ticks("A"), None) == {Feed("A", "tick"): "refused by Binance: no"}
    assert not subscriptions.due


def test_a_refused_feed_that_is_wanted_again_is_asked_for_alone() -> None:
    ledger = Ledger()
    ledger.blame(ticks("BAD"), "no")
    subscriptions = Subscriptions(ledger, "trade")
    ledger.forget_unwanted(ticks("A", "B"))  # BAD is unwanted: forgotten, but for the suspicion
    subscriptions.plan(ticks("A", "B"), None)
    subscriptions.plan(ticks("A", "B", "BAD"), None)
    assert take(subscriptions)[1] == ["a@bookTicker", "b@bookTicker"]


def test_connections_leave_each_other_what_they_learned() -> None:
    ledger = Ledger()
    one, other = Subscriptions(ledger, "trade"), Subscriptions(ledger, "trade")
    one.plan(ticks("A", "BAD"), None)
    one.answered(Reply(take(one)[2], "no"))
    one.plan(ticks("A", "BAD"), None)
    for _ in range(2):
        one.answered(Reply(take(one)[2], "no" if one.plan(ticks("A", "BAD"), None) else None))
        other.plan(ticks("C"), None)
    symbols = frozenset({"A", "BAD", "C"})
    assert ledger.confirm(ticks("A"), symbols) == ticks("A")
    other.plan(ticks("C"), None)
    assert ledger.confirm(ticks("A"), symbols) == frozenset()  # the host knows already


@given(
    st.sets(st.integers(0, 299), min_size=1, max_size=300),
    st.sets(st.integers(0, 299), max_size=4),
    st.booleans(),
)
def test_culprits_are_found_and_everyone_else_is_served(
    wanted: set[int], bad: set[int], closes: bool
) -> None:
    """Whatever is wrong with some, the rest ends up subscribed, after few lost connections."""
    feeds = ticks(*(f"S{n}" for n in wanted))
    culprits = ticks(*(f"S{n}" for n in bad)) & feeds
    names = {f"{feed.symbol.lower()}@bookTicker" for feed in culprits}
    ledger = Ledger()
    subscriptions = Subscriptions(ledger, "trade")
    refused: dict[Feed, str] = {}
    confirmed: set[Feed] = set()
    lost = 0
    for _ in range(400):
        refused |= subscriptions.plan(feeds, None)
        if not subscriptions.due:
            break
        _, params, id_ = take(subscriptions)
        rejected = bool(names & set(params))
        confirmed |= subscriptions.answered(Reply(id_, "no" if rejected else None)) or frozenset()
        if rejected and closes:
            lost += 1
            subscriptions = Subscriptions(ledger, "trade")
    assert not subscriptions.due
    assert refused.keys() == culprits
    assert confirmed == feeds - culprits
    assert subscriptions.active == feeds - culprits
    assert lost <= 4 * len(culprits)
