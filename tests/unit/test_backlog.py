"""What a client that is behind gets, and in which order."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import Candle, OrderBook, Published, Tick, Topic, Trade
from mdserver.protocol.record_frames import frame_record
from mdserver.protocol.server_frames import text_frame, text_payloads
from mdserver.web.stream.backlog import CHUNK_BYTES, Backlog

TICKS = [Topic("x", symbol, "tick") for symbol in "AB"]
TRADES = Topic("x", "A", "trade")


def tick(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, seq, 1.0, 2.0))


def trade(seq: int) -> Published:
    return Published(TRADES, seq, Trade("A", seq, 1.5, 1.0))


def offer(backlog: Backlog, *records: Published) -> None:
    for record in records:
        backlog.offer(record, frame_record(record))


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


def test_of_order_books_the_latest_wins_but_no_change_of_a_full_one_is_left_out() -> None:
    backlog = Backlog()
    for depth in ("10", "full"):
        topic = Topic("x", "A", "orderbook", depth)
        for seq, action in enumerate(("snapshot", "update" if depth == "full" else "snapshot"), start=1):
            book = OrderBook("A", seq, ((1.0, 2.5),), (), action, depth)
            offer(backlog, Published(topic, seq, book))
    assert [(m["depth"], m["seq"], m.get("snapshot")) for m in take_all(backlog)] == [
        ("full", 1, True),
        ("full", 2, None),
        (10, 2, None),
    ]
