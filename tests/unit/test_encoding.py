"""The bytes of records: one object per encoding, and what a replay reads in the same bytes as what is live."""

from __future__ import annotations

import json
from itertools import product

import msgspec
import pytest

from mdserver.model import Candle, Gap, OrderBook, Published, Tick, Topic, Trade
from mdserver.protocol.encoding import PLAIN, PLAIN_WIRE, TRANSLATED_BYTES, Format, encoding, mark, wire_of
from mdserver.protocol.server_frames import payload_of, payloads
from mdserver.protocol.times import TIMES, Times

T0 = 1_710_918_000_123_456
HOLE = Topic("one", "EURUSD", "trade")
RECORDS = [
    Published(Topic("one", "EURUSD", "tick"), 1, Tick("EURUSD", T0, 1.08703, 2.0, 0.5, 1e-07), T0 + 1),
    Published(Topic("one", "EURUSD", "tick"), 2, Tick("EURUSD", T0 + 544, 1.1, 2.0), T0 + 500_000),
    Published(HOLE, 7, Trade("EURUSD", T0, 1.5, 3.0, "sell", "é\u2028"), T0),
    Published(HOLE, 7, Gap(HOLE, T0, T0 + 876_544, "missed", 3)),
    Published(HOLE, 7, Gap(HOLE, T0, None, "missed")),
    Published(Topic("x", "A", "candle", "1m"), 0, Candle("A", T0, "1m", 1.0, 2.0, 0.5, 1.5, 0.25, 4, False)),
]


def test_there_is_one_object_for_the_same_bytes() -> None:
    assert wire_of() is wire_of("json", "s") is PLAIN_WIRE
    assert encoding(PLAIN_WIRE) is encoding(PLAIN_WIRE, received=False, levels=0) is PLAIN
    assert encoding(PLAIN_WIRE, levels=3) is not PLAIN
    assert encoding(wire_of("msgpack")) is encoding(wire_of("msgpack"))


@pytest.mark.parametrize("received", [False, True])
@pytest.mark.parametrize(("form", "times"), list(product(("json", "msgpack"), TIMES)))
def test_what_is_replayed_has_the_bytes_of_what_is_live(
    form: Format, times: Times, *, received: bool
) -> None:
    wanted = encoding(wire_of(form, times), received=received)
    stored = encoding(PLAIN_WIRE, received=received)
    read = b"".join(map(stored.frame, RECORDS))
    assert wanted.translate(read) == b"".join(map(wanted.frame, RECORDS))


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_replay_is_translated_in_small_parts(form: Format) -> None:
    """A piece of a page has 64 KiB; translating all of it in one go would hold the event loop."""
    wanted = encoding(wire_of(form, "us"))
    read = b"".join(map(PLAIN.frame, RECORDS)) * 200
    parts = list(wanted.parts(read))
    assert b"".join(parts) == read
    longest = max(len(PLAIN.frame(record)) for record in RECORDS)
    assert len(parts) > 1
    assert all(TRANSLATED_BYTES <= len(part) < TRANSLATED_BYTES + longest for part in parts[:-1])
    assert b"".join(map(wanted.translate, parts)) == b"".join(map(wanted.frame, RECORDS)) * 200
    assert list(PLAIN.parts(read)) == [read], "nothing is to be translated"


def test_levels_are_cut_and_a_full_book_is_marked_once() -> None:
    levels = tuple((100.0 - n, 1.0) for n in range(5))
    book = OrderBook("A", T0, levels, levels[:1], "snapshot", "25")
    shown = json.loads(
        encoding(PLAIN_WIRE, levels=2).payload(Published(Topic("x", "A", "orderbook", "25"), 1, book))
    )
    assert (shown["depth"], shown["bids"], shown["asks"]) == (2, [[100, 1], [99, 1]], [[100, 1]])
    full = OrderBook("A", T0, levels, (), "snapshot", "full")
    whole = Published(Topic("x", "A", "orderbook", "full"), 1, full, T0)
    for form in ("json", "msgpack"):
        frame = encoding(wire_of(form), received=True).snapshot(whole)
        assert payload_of(frame).count(b"snapshot") == 1


@pytest.mark.parametrize("count", [1, 2, 15, 16, 40, 70_000])
@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_array_holds_every_message_in_order(form: Format, count: int) -> None:
    wire = wire_of(form)
    tick = encoding(wire)
    frames = [
        tick.frame(Published(Topic("x", "A", "tick"), n, Tick("A", T0, 1.0, 2.0)))
        for n in range(min(count, 2_000))
    ]
    frames += [wire.frame(wire.encode(None))] * (count - len(frames))
    decode = json.loads if form == "json" else msgspec.msgpack.decode
    got = [decode(payload) for payload in payloads(wire.array(frames))]
    assert count == 1 or all(isinstance(one, list) for one in got[:-1])
    flat = [message for one in got for message in (one if isinstance(one, list) else [one])]
    assert flat == [decode(payload_of(frame)) for frame in frames]


def test_a_mark_of_a_long_record_is_framed_anew() -> None:
    frame = PLAIN_WIRE.frame(b'{"a":"%b"}' % (b"x" * 116))
    assert json.loads(payload_of(mark(frame, "conflated", 12))) == {"a": "x" * 116, "conflated": 12}
