"""The names of objects, and of the predecessor's."""

from datetime import date

import pytest

from mdserver.errors import BadMessage
from mdserver_lake.layout import Place, place_of
from mdserver_lake.predecessor import hours_of_day, part_of
from mdserver_lake.pull import CHUNK_BYTES, chunks_of

DAY = date(2024, 3, 5)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (
            Place("tick", "dukascopy", "EURUSD", "tick", DAY),
            "kind=tick/broker=dukascopy/symbol=EURUSD/date=2024-03-05/data.parquet",
        ),
        (
            Place("trade", "b.1_x-y", "币安人生USDT", "trade", DAY),
            "kind=trade/broker=b.1_x-y/symbol=币安人生USDT/date=2024-03-05/data.parquet",
        ),
        (
            Place("candle", "oanda", "SPX:500", "tick", DAY),
            "kind=candle/of=quotes/broker=oanda/symbol=SPX:500/date=2024-03-05/data.parquet",
        ),
    ],
)
def test_a_place_is_its_name(place: Place, key: str) -> None:
    assert place.key == key
    assert place_of(key) == place


@pytest.mark.parametrize(
    "key",
    [
        "kind=tick/broker=a/symbol=B/date=2024-03-05/data.parquet#1",
        "kind=tick/of=quotes/broker=a/symbol=B/date=2024-03-05/data.parquet",
        "kind=candle/broker=a/symbol=B/date=2024-03-05/data.parquet",
        "kind=tick/broker=a/symbol=B/date=2024-02-30/data.parquet",
        "ticks/EURUSD/2024/03/05/part-0.json",
    ],
)
def test_what_is_not_ours_is_left_alone(key: str) -> None:
    assert place_of(key) is None


def test_a_large_month_is_several_transactions() -> None:
    days = [date(2024, month, day) for month in (3, 4) for day in (1, 2, 3)]
    places = {Place("tick", "d", "EURUSD", "tick", day): CHUNK_BYTES // 2 for day in reversed(days)}
    assert [[place.day.day for place in chunk] for chunk in chunks_of(places)] == [[1, 2], [3], [1, 2], [3]]
    unknown = dict.fromkeys(places, 0)
    assert [len(chunk) for chunk in chunks_of(unknown)] == [3, 3]


def test_parts_of_the_predecessor() -> None:
    part = part_of("ticks/eur_usd/2024/03/05/part-00.json")
    assert part is not None
    assert (part.symbol, part.day) == ("EURUSD", DAY)
    for other in (
        "ticks/EURUSD/2024/13/05/part-0.json",
        "ticks/EURUSD/2024/03/05/x.json",
        "ticks/?/2024/03/05/part-0.json",
    ):
        assert part_of(other) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"timestamp": "yesterday", "bid": 1, "ask": 1}]', "expected ISO 8601"),
        ('[{"timestamp": 1709622000, "bid": 1}]', "expected objects with timestamp, bid and ask"),
        ('[{"timestamp": 1709622000, "bid": 1, "ask": 1}', "expected objects"),
        ('[{"timestamp": 1709422000, "bid": 1, "ask": 1}]', "a tick is not of 2024-03-05"),
    ],
)
def test_a_bad_part_is_named(text: str, message: str) -> None:
    with pytest.raises(BadMessage, match=message) as raised:
        hours_of_day(DAY, [("ticks/EURUSD/2024/03/05/part-7.json", text.encode())])
    assert "part-7.json" in str(raised.value)
