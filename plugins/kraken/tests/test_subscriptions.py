"""Demand, answers and time in; requests and outcomes out. No sockets, and time is a number."""

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mdserver.model import Feed
from mdserver_kraken.codec import Reply
from mdserver_kraken.subscriptions import MAX_BATCH, RATE_PAUSE_S, Outcome, Subscriptions

BTC, ETH = Feed("BTCUSD", "tick"), Feed("ETHUSD", "tick")
BTC_TRADES, BTC_BOOK = Feed("BTCUSD", "trade"), Feed("BTCUSD", "orderbook", "25")
NAMES = {"BTCUSD": "BTC/USD", "ETHUSD": "ETH/USD", "XUSD": "X/USD"}


def subscriptions(attempts: int = 3) -> Subscriptions:
    return Subscriptions(answer_s=10.0, attempts=attempts)


def request(subs: Subscriptions, now: float) -> dict[str, Any] | None:
    text = subs.next_request(now)
    return None if text is None else json.loads(text)


def accept(request: dict[str, Any], symbol: str) -> Reply:
    return Reply(request["method"], request["req_id"], request["params"]["channel"], symbol, None)


def refuse(request: dict[str, Any], error: str, symbol: str | None) -> Reply:
    return Reply(request["method"], request["req_id"], None, symbol, error)


def subscribed(subs: Subscriptions, *feeds: Feed, now: float = 0.0) -> None:
    subs.plan(feeds, NAMES)
    while (asked := request(subs, now)) is not None:
        for symbol in asked["params"]["symbol"]:
            subs.answered(accept(asked, symbol), now)


def test_one_request_for_each_channel_with_all_its_symbols() -> None:
    subs = subscriptions()
    assert subs.plan([BTC, ETH, BTC_TRADES], NAMES) == {}
    asked = [request(subs, 0.0), request(subs, 0.0)]
    assert [(a["params"]["channel"], a["params"]["symbol"]) for a in asked if a] == [
        ("ticker", ["BTC/USD", "ETH/USD"]),
        ("trade", ["BTC/USD"]),
    ]
    assert request(subs, 0.0) is None


def test_answers_for_each_symbol_in_any_order() -> None:
    subs = subscriptions()
    subs.plan([BTC, ETH], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    assert subs.answered(accept(asked, "ETH/USD"), 0.0) == Outcome(confirmed=(ETH,))
    assert subs.active == {ETH}
    refused = subs.answered(refuse(asked, "Currency pair not supported BTC/USD", "BTC/USD"), 0.0)
    assert refused == Outcome(refused={BTC: "refused by Kraken: Currency pair not supported BTC/USD"})
    subs.plan([ETH], NAMES)  # as the host takes a refused feed out of the demand
    assert request(subs, 0.0) is None
    assert subs.wake_at(0.0) == math.inf
    subs.plan([BTC, ETH], NAMES)  # wanted anew: asked anew
    again = request(subs, 1.0)
    assert again is not None
    assert again["params"]["symbol"] == ["BTC/USD"]


def test_a_refusal_without_a_symbol_is_meant_for_all_that_wait() -> None:
    subs = subscriptions()
    subs.plan([BTC, ETH], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    subs.answered(accept(asked, "ETH/USD"), 0.0)
    outcome = subs.answered(refuse(asked, "Channel not supported", None), 0.0)
    assert outcome == Outcome(refused={BTC: "refused by Kraken: Channel not supported"})


def test_replies_to_nobody() -> None:
    subs = subscriptions()
    assert subs.answered(Reply("subscribe", None, "ticker", "BTC/USD", None), 0.0) is None
    assert subs.answered(Reply("subscribe", 99, "ticker", "BTC/USD", None), 0.0) is None
    subs.plan([BTC], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    assert subs.answered(accept(asked, "ETH/USD"), 0.0) == Outcome()
    assert subs.active == frozenset()


def test_what_is_not_listed_is_not_asked_for() -> None:
    subs = subscriptions()
    assert subs.plan([Feed("NOSUCH", "tick")], NAMES) == {Feed("NOSUCH", "tick"): "Kraken lists no NOSUCH"}
    assert request(subs, 0.0) is None


def test_a_symbol_without_an_answer_is_asked_for_again_then_refused() -> None:
    subs = subscriptions(attempts=3)
    subs.plan([BTC, ETH], NAMES)
    now = 0.0
    for attempt in range(3):
        asked = request(subs, now)
        assert asked is not None
        if attempt == 0:
            subs.answered(accept(asked, "ETH/USD"), now)
        else:
            assert asked["params"]["symbol"] == ["BTC/USD"]
        assert subs.overdue(now + 9.9) == Outcome()
        assert subs.wake_at(now) == now + 10.0
        now += 10.0
        outcome = subs.overdue(now)
    assert outcome == Outcome(refused={BTC: "no answer from Kraken within 10 s, asked 3 times"})
    assert request(subs, now) is None
    assert subs.wake_at(now) == math.inf


def test_an_answer_that_comes_too_late_still_counts() -> None:
    subs = subscriptions(attempts=1)
    subs.plan([BTC], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    assert subs.overdue(10.0).refused.keys() == {BTC}
    subs.plan([], NAMES)
    assert subs.answered(accept(asked, "BTC/USD"), 60.0) == Outcome(confirmed=(BTC,))
    subs.plan([BTC], NAMES)  # it is held after all
    assert subs.active == {BTC}
    assert request(subs, 60.0) is None


def test_a_late_answer_for_what_nobody_wants_any_more_is_left() -> None:
    subs = subscriptions()
    subs.plan([BTC], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    subs.plan([], NAMES)
    assert request(subs, 1.0) is None  # not before it is known whether there is anything to leave
    subs.answered(accept(asked, "BTC/USD"), 2.0)
    leaving = request(subs, 2.0)
    assert leaving is not None
    assert leaving["method"] == "unsubscribe"
    assert subs.answered(accept(leaving, "BTC/USD"), 3.0) == Outcome(left=(BTC,))
    assert request(subs, 3.0) is None


def test_already_subscribed_is_as_good_as_accepted() -> None:
    subs = subscriptions()
    subs.plan([BTC], NAMES)
    asked = request(subs, 0.0)
    assert asked is not None
    outcome = subs.answered(refuse(asked, "Already subscribed", "BTC/USD"), 0.0)
    assert outcome == Outcome(confirmed=(BTC,))


def test_wanted_again_while_leaving() -> None:
    subs = subscriptions()
    subscribed(subs, BTC)
    subs.plan([], NAMES)
    leaving = request(subs, 1.0)
    assert leaving is not None
    subs.plan([BTC], NAMES)
    assert request(subs, 1.0) is None
    subs.answered(accept(leaving, "BTC/USD"), 1.5)
    again = request(subs, 1.5)
    assert again is not None
    assert (again["method"], again["params"]["symbol"]) == ("subscribe", ["BTC/USD"])


def test_leaving_without_an_answer_is_tried_again_then_taken_as_done() -> None:
    subs = subscriptions(attempts=2)
    subscribed(subs, BTC)
    subs.plan([], NAMES)
    for now in (1.0, 11.0):
        leaving = request(subs, now)
        assert leaving is not None
        assert leaving["method"] == "unsubscribe"
        assert subs.overdue(now + 10.0) == Outcome()
    assert request(subs, 21.0) is None
    subs.plan([BTC], NAMES)
    asked = request(subs, 21.0)
    assert asked is not None
    assert asked["method"] == "subscribe"


def test_a_book_is_renewed_by_leaving_and_asking_after_a_pause() -> None:
    subs = subscriptions()
    subscribed(subs, BTC, BTC_BOOK)
    subs.renew(BTC_BOOK, not_before=5.0)
    subs.renew(ETH, not_before=5.0)  # not active: nothing to renew
    leaving = request(subs, 1.0)
    assert leaving is not None
    assert leaving == {
        "method": "unsubscribe",
        "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 25},
        "req_id": leaving["req_id"],
    }
    assert subs.answered(accept(leaving, "BTC/USD"), 1.0) == Outcome(left=(BTC_BOOK,))
    assert request(subs, 4.9) is None
    assert subs.wake_at(1.0) == 5.0
    asked = request(subs, 5.0)
    assert asked is not None
    assert asked["method"] == "subscribe"
    subs.answered(accept(asked, "BTC/USD"), 5.0)
    assert request(subs, 5.0) is None
    assert subs.active == {BTC, BTC_BOOK}


def test_too_many_messages_are_no_verdict() -> None:
    subs = subscriptions(attempts=1)
    subscribed(subs, ETH)
    subs.plan([BTC], NAMES)
    leaving, asked = request(subs, 0.0), request(subs, 0.0)
    assert leaving is not None
    assert asked is not None
    for refused in (asked, leaving):
        assert subs.answered(refuse(refused, "Exceeded msg rate", None), 0.0) == Outcome()
    assert request(subs, 0.1) is None
    assert subs.wake_at(0.1) == RATE_PAUSE_S
    again = [request(subs, RATE_PAUSE_S), request(subs, RATE_PAUSE_S)]
    assert [a["method"] for a in again if a] == ["unsubscribe", "subscribe"]


def test_many_symbols_go_into_several_requests() -> None:
    subs = subscriptions()
    names = {f"S{n}": f"S{n}/USD" for n in range(250)}
    subs.plan([Feed(symbol, "tick") for symbol in names], names)
    sizes = []
    while (asked := request(subs, 0.0)) is not None:
        sizes.append(len(asked["params"]["symbol"]))
    assert sizes == [MAX_BATCH, MAX_BATCH, 50]


def test_requests_are_remembered_to_a_bound() -> None:
    subs = subscriptions(attempts=1000)
    subs.plan([BTC], NAMES)
    for number in range(500):
        assert request(subs, number * 10.0) is not None
        subs.overdue(number * 10.0 + 10.0)
    assert len(subs._requests) == 200


FEEDS = [Feed(symbol, kind) for symbol in ("BTCUSD", "ETHUSD") for kind in ("tick", "trade")]  # type: ignore[arg-type]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["want", "want", "answer", "answer", "lose", "drop", "wait", "renew"]),
        st.integers(0, 15),
    ),
    max_size=40,
)


class Venue:
    """A venue that takes requests in the order in which they come, and answers late, in any order or not at all."""

    def __init__(self, subs: Subscriptions) -> None:
        self.subs = subs
        self.now = 0.0
        self.served: set[tuple[str, str]] = set()
        self.waiting: list[Reply] = []
        self.overlooked = 0
        """So many of the next symbols are neither taken nor answered."""

    def take_requests(self) -> None:
        while (asked := request(self.subs, self.now)) is not None:
            for symbol in asked["params"]["symbol"]:
                if self.overlooked:
                    self.overlooked -= 1
                else:
                    self.waiting.append(self.take(asked, symbol))

    def take(self, asked: dict[str, Any], symbol: str) -> Reply:
        key = (asked["params"]["channel"], symbol)
        known = key in self.served
        if asked["method"] == "unsubscribe":
            self.served.discard(key)
            return accept(asked, symbol) if known else refuse(asked, "Subscription Not Found", symbol)
        self.served.add(key)
        return refuse(asked, "Already subscribed", symbol) if known else accept(asked, symbol)

    def answer(self, index: int, *, lost: bool = False) -> None:
        reply = self.waiting.pop(index)
        if not lost:
            self.subs.answered(reply, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.subs.overdue(self.now)


@settings(max_examples=500)
@given(steps=STEPS)
def test_whatever_happens_the_venue_ends_up_with_what_is_wanted(steps: list[tuple[str, int]]) -> None:
    subs = subscriptions(attempts=10**6)
    venue = Venue(subs)
    wanted: frozenset[Feed] = frozenset()
    for what, number in steps:
        if what == "want":
            wanted = frozenset(feed for bit, feed in enumerate(FEEDS) if number >> bit & 1)
            subs.plan(wanted, NAMES)
        elif what == "wait":
            venue.wait(number)
        elif what == "renew":
            subs.renew(FEEDS[number % 4], venue.now + number)
        elif what == "drop":
            venue.overlooked = number % 4
        elif venue.waiting:
            venue.answer(number % len(venue.waiting), lost=what == "lose")
        venue.take_requests()
    venue.overlooked = 0
    for _ in range(20):
        while venue.waiting:
            venue.answer(0)
        venue.wait(20.0)
        venue.take_requests()
    assert subs.active == wanted
    channels = {"tick": "ticker", "trade": "trade"}
    assert venue.served == {(channels[feed.type], NAMES[feed.symbol]) for feed in wanted}
