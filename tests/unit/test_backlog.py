"""What a client that is behind gets, and in which order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from mdserver.kinds import KINDS
from mdserver.model import Candle, Gap, OrderBook, Published, Tick, Topic, Trade
from mdserver.protocol.encoding import mark
from mdserver.protocol.server_frames import text_frame, text_payloads
from mdserver.protocol.terms import PLAIN_TERMS, Terms
from mdserver.stream.audience import Owed
from mdserver.stream.full_books import FullBooks
from mdserver.web.stream.backlog import CHUNK_BYTES, Backlog

TICKS = [Topic("x", symbol, "tick") for symbol in "AB"]
TRADES = Topic("x", "A", "trade")


def tick(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, seq, 1.0, 2.0))


def trade(seq: int) -> Published:
    return Published(TRADES, seq, Trade("A", seq, 1.5, 1.0))


def owed(
    record: Published,
    terms: Terms = PLAIN_TERMS,
    skipped: int = 0,
    last: Callable[[Topic], Published | None] = lambda _: None,
) -> Owed:
    frame = terms.encoding.frame(record)
    frame = mark(frame, "conflated", skipped) if skipped else frame
    kind = KINDS[type(record.record)]
    changes = kind.changes is not None and kind.changes(record.record)
    may_wait = (changes or kind.latest_wins(record.record)) and not terms.keep_all
    return Owed(record, frame, terms, may_wait, skipped, last)


def offer(backlog: Backlog, *records: Published) -> None:
    for record in records:
        backlog.offer(owed(record))


def take(backlog: Backlog) -> list[dict[str, Any]]:
    return [json.loads(text) for text in text_payloads(backlog.take())]


def take_all(backlog: Backlog) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    while messages := take(backlog):
        out += messages
    return out


def test_ticks_do_not_wait_until_all_trades_are_gone() -> None:
    backlog = Backlog()
    offer(backlog, *(trade(seq) for seq in range(1, 3001)), tick(TICKS[0], 1), tick(TICKS[0], 2))
    assert backlog.size > 2 * CHUNK_BYTES
    first = take(backlog)
    assert [m["seq"] for m in first if m["type"] == "trade"] == list(range(1, len(first)))
    assert (first[-1]["type"], first[-1]["seq"], first[-1]["conflated"]) == ("tick", 2, 1)
    rest = take_all(backlog)
    assert [m["seq"] for m in rest] == list(range(len(first), 3001))
    assert backlog.size == 0


def test_an_answer_comes_behind_the_ticks_that_waited_before_it() -> None:
    backlog = Backlog()
    offer(backlog, tick(TICKS[0], 1), tick(TICKS[0], 2))
    backlog.append(text_frame(b'{"type":"ack"}'))
    offer(backlog, tick(TICKS[0], 3))
    assert [(m["type"], m.get("seq"), m.get("conflated")) for m in take_all(backlog)] == [
        ("tick", 2, 1),
        ("ack", None, None),
        ("tick", 3, None),
    ]


@given(st.lists(st.sampled_from(["A", "B", "trade", "answer", "take"]), max_size=200))
def test_trades_are_complete_and_jumps_of_ticks_explained(steps: list[str]) -> None:
    backlog, seqs, got, conflated = Backlog(), {"A": 0, "B": 0, "trade": 0}, [], 0
    for step in steps:
        if step == "take":
            got += take(backlog)
        elif step == "answer":
            backlog.append(text_frame(b'{"type":"ack"}'))
        else:
            seqs[step] += 1
            offer(
                backlog, trade(seqs[step]) if step == "trade" else tick(Topic("x", step, "tick"), seqs[step])
            )
    got += take_all(backlog)
    last = {"A": 0, "B": 0}
    for message in got:
        if message["type"] == "tick":
            conflated += message.get("conflated", 0)
            assert message["seq"] == last[message["symbol"]] + 1 + message.get("conflated", 0)
            last[message["symbol"]] = message["seq"]
    assert last == {"A": seqs["A"], "B": seqs["B"]}
    assert [m["seq"] for m in got if m["type"] == "trade"] == list(range(1, seqs["trade"] + 1))
    assert sum(m["type"] == "ack" for m in got) == steps.count("answer")
    assert backlog.take_conflated() == conflated
    assert backlog.size == 0


def test_a_closed_candle_neither_replaces_nor_overtakes_the_forming_one() -> None:
    topic = Topic("x", "A", "candle", "1m")
    backlog = Backlog()

    def candle(seq: int, *, closed: bool) -> Published:
        return Published(topic, seq, Candle("A", 0, "1m", 1.0, 1.0, 1.0, 1.0, 1.0, seq, closed))

    offer(backlog, *(candle(seq, closed=seq == 3) for seq in range(1, 6)))
    shown = [(m["seq"], m["closed"], m.get("conflated")) for m in take_all(backlog)]
    assert shown == [(2, False, 1), (3, True, None), (5, False, 1)]


def test_of_order_books_of_some_levels_the_latest_wins() -> None:
    backlog = Backlog()
    topic = Topic("x", "A", "orderbook", "10")
    for seq in (1, 2):
        offer(backlog, Published(topic, seq, OrderBook("A", seq, ((1.0, 2.5),), (), "snapshot", "10")))
    assert [(m["depth"], m["seq"], m["conflated"]) for m in take_all(backlog)] == [(10, 2, 1)]


FULL = Topic("x", "A", "orderbook", "full")


def book(seq: int, *bids: tuple[float, float], action: Literal["snapshot", "update"] = "update") -> Published:
    return Published(FULL, seq, OrderBook("A", seq, bids, (), action, "full"))


def test_changes_of_a_full_book_that_were_left_out_become_a_snapshot_of_now() -> None:
    backlog, books = Backlog(), FullBooks()

    def offer_book(*records: Published, terms: Terms = PLAIN_TERMS) -> None:
        for one in records:
            books.take(one)
            backlog.offer(owed(one, terms, last=books.whole))

    books.take(book(1, (1.0, 5.0), (2.0, 5.0), action="snapshot"))
    offer_book(book(2, (1.0, 6.0)))
    assert [(m["seq"], m.get("snapshot"), m["bids"]) for m in take_all(backlog)] == [(2, None, [[1, 6]])]
    offer_book(book(3, (1.0, 7.0)), book(4, (2.0, 0.0)), book(5, (3.0, 1.5)))
    books.take(book(6, (4.0, 1.0)))
    (message,) = take_all(backlog)
    assert (message["seq"], message["snapshot"], message["conflated"]) == (6, True, 2)
    assert message["bids"] == [[4, 1], [3, 1.5], [1, 7]]
    offer_book(book(7, (1.0, 1.0)), book(8, (1.0, 2.0)), terms=Terms(keep_all=True))
    assert [(m["seq"], m["bids"]) for m in take_all(backlog)] == [(7, [[1, 1]]), (8, [[1, 2]])]


def test_a_gap_in_a_full_book_comes_before_the_snapshot_that_ends_it() -> None:
    backlog, books = Backlog(), FullBooks()
    batch = [
        book(1, (1.0, 1.0), action="snapshot"),
        book(2, (1.0, 2.0)),
        book(3, (1.0, 3.0)),
        Published(FULL, 3, Gap(FULL, 3, 4, "disconnected")),
        book(4, (9.0, 1.0), action="snapshot"),
    ]
    for one in batch:
        books.take(one)
    for one in batch:
        backlog.offer(owed(one, last=books.whole))
    shown = [(m["type"], m.get("seq"), m.get("bids"), m.get("conflated")) for m in take_all(backlog)]
    assert shown == [("gap", None, None, None), ("orderbook", 4, [[9, 1]], 3)]


def test_changes_behind_a_gap_make_no_book() -> None:
    books = FullBooks()
    books.take(book(1, (1.0, 1.0), action="snapshot"))
    books.take(Published(FULL, 1, Gap(FULL, 1, 2, "unsubscribed")))
    assert books.whole(FULL) is not None
    books.take(book(2, (1.0, 2.0)))
    books.take(book(3, (1.0, 3.0)))
    assert books.whole(FULL) is None


def test_nothing_is_conflated_for_who_wants_all() -> None:
    backlog = Backlog()
    terms = Terms(keep_all=True)
    for seq in range(1, 4):
        assert backlog.offer(owed(tick(TICKS[0], seq), terms))
    assert [(m["seq"], m.get("conflated")) for m in take_all(backlog)] == [(1, None), (2, None), (3, None)]


def test_records_left_out_by_a_rate_and_by_being_behind_are_counted_together() -> None:
    backlog = Backlog()
    for seq, skipped in ((3, 2), (5, 1), (6, 0)):
        one = tick(TICKS[0], seq)
        backlog.offer(owed(one, skipped=skipped))
    assert [(m["seq"], m["conflated"]) for m in take_all(backlog)] == [(6, 5)]


def test_a_tick_overtakes_neither_a_gap_nor_an_older_tick_that_was_kept_before_it() -> None:
    backlog = Backlog()
    gap = Published(TICKS[0], 1, Gap(TICKS[0], 1, 2, "missed"))
    offer(backlog, *(trade(seq) for seq in range(1, 3001)))
    offer(backlog, tick(TICKS[0], 1), gap, tick(TICKS[0], 2), tick(TICKS[1], 1))
    seen = [message for message in take_all(backlog) if message["type"] != "trade"]
    of_one = [one.get("seq", "gap") for one in seen if one["symbol"] == "A"]
    assert of_one == [1, "gap", 2]


def test_a_tick_does_not_overtake_the_answer_that_was_written_before_it() -> None:
    backlog = Backlog()
    offer(backlog, *(trade(seq) for seq in range(1, 3001)))
    backlog.append(text_frame(b'{"type":"ack"}'))  # it may be that of the topic's own subscription
    offer(backlog, tick(TICKS[0], 1))
    seen = [message["type"] for message in take_all(backlog) if message["type"] != "trade"]
    assert seen == ["ack", "tick"]
