"""The id of a server-sent event names a place in each topic, and brings it back."""

import pytest

from mdserver.protocol.event_ids import Positions, parse_event_id

ORDER = [("EURUSD", "tick"), ("EURUSD", "trade"), ("币安", "tick"), ("BTCUSDT", "tick")]
KNOWN = {
    ("EURUSD", "tick"): ("mock", 7),
    ("币安", "tick"): ("mock", 0),
    ("BTCUSDT", "tick"): ("a,b/c:d é", 3),
}


def test_what_it_names_comes_back() -> None:
    positions = Positions("5f3a/9", ORDER, KNOWN)
    positions.advance("mock", ("EURUSD", "tick"), 8)
    positions.advance("mock", ("EURUSD", "candle"), 99)
    positions.advance("mock", ("EURUSD", "tick"), 9)
    text = positions.event_id()
    assert text == "5f3a%2F9/mock:9,,0,a%2Cb%2Fc%3Ad%20%C3%A9:3"
    assert parse_event_id(text, ORDER) == (
        "5f3a/9",
        [("mock", "EURUSD", "tick", 9), ("mock", "币安", "tick", 0), ("a,b/c:d é", "BTCUSDT", "tick", 3)],
    )


def test_a_broker_that_took_another_ones_place_is_named() -> None:
    positions = Positions("e", ORDER, KNOWN)
    positions.advance("second", ("EURUSD", "tick"), 1)
    assert positions.event_id().startswith("e/second:1,,mock:0,")
    positions.advance("second", ("币安", "tick"), 5)
    positions.advance("second", ("EURUSD", "tick"), 2)
    assert parse_event_id(positions.event_id(), ORDER)[1][:2] == [
        ("second", "EURUSD", "tick", 2),
        ("second", "币安", "tick", 5),
    ]


def test_one_without_numbers_has_no_rows() -> None:
    assert parse_event_id(Positions("e", ORDER, {}).event_id(), ORDER) == ("e", [])


@pytest.mark.parametrize(
    "text",
    ["", "7", "/7", "e/7", "e/mock:x", "e/mock:-1", "e/mock:٣", "e/m:1,2,3,4,5", "e/m:" + "9" * 30, "e/:1"],
)
def test_what_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected the id of an event"):
        parse_event_id(text, ORDER)


def test_a_number_that_is_not_known_at_first_has_its_place_once_a_record_comes() -> None:
    order = [("AAA", "tick"), ("BBB", "tick"), ("CCC", "tick")]
    known = {order[0]: ("sea", None), order[1]: ("lake", None), order[2]: ("lake", 3)}
    positions = Positions("e", order, known)
    assert positions.event_id() == "e/,,lake:3"
    positions.advance("lake", order[1], 8)
    assert positions.event_id() == "e/,lake:8,3"
    assert parse_event_id(positions.event_id(), order) == (
        "e",
        [("lake", "BBB", "tick", 8), ("lake", "CCC", "tick", 3)],
    )
    positions.advance("sea", order[0], 1)
    assert positions.event_id() == "e/sea:1,lake:8,3"
