"""Canonical symbols."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.symbols import MAX_LENGTH, canonical, canonical_all

texts = st.text(max_size=40) | st.text(string.ascii_letters + string.digits + "/_-. :éß币\n", max_size=40)


@pytest.mark.parametrize("text", ["eur/usd", "EUR_USD", "EUR-USD", "EURUSD", "EurUsd", " eur usd "])
def test_separators_and_case_do_not_matter(text: str) -> None:
    assert canonical(text) == "EURUSD"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "---",
        "EUR$",
        "EUR\nUSD",
        "A" * (MAX_LENGTH + 1),
        "ß",
        "ıUSD",
        "EUR€",
        "A½",
        "Я" * 33,
        "١" + "\0",
        "ﬁUSD",
    ],
)
def test_what_cannot_be_a_symbol_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a symbol") as raised:
        canonical(text)
    assert repr(text)[1:5].rstrip("'") in str(raised.value)


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("币安人生USDT", "币安人生USDT"),
        ("币安人生/usdt", "币安人生USDT"),
        ("é-usd", "ÉUSD"),
        ("e\u0301usd", "ÉUSD"),
        ("рубль_usd", "РУБЛЬUSD"),
        ("हिंदीUSDT", "हिंदीUSDT"),
    ],
)
def test_letters_of_every_script_are_letters(text: str, symbol: str) -> None:
    assert canonical(text) == canonical(symbol) == symbol


def test_the_message_is_bounded() -> None:
    with pytest.raises(ValueError, match="…") as raised:
        canonical("x" * 1_000_000)
    assert len(str(raised.value)) < 200


@given(texts)
def test_canonical_is_idempotent_and_well_formed(text: str) -> None:
    try:
        symbol = canonical(text)
    except ValueError:
        return
    assert canonical(symbol) == symbol
    assert all(len(one.upper()) > 1 or one == one.upper() for one in symbol)
    assert 1 <= len(symbol) <= MAX_LENGTH
    assert not set(symbol) & set("/_- \n")


@given(texts)
def test_case_never_matters(text: str) -> None:
    def outcome(value: str) -> str | None:
        try:
            return canonical(value)
        except ValueError:
            return None

    if text.isascii():
        assert outcome(text.lower()) == outcome(text.upper())


def test_each_symbol_once_in_order() -> None:
    assert canonical_all(["b/c", "EURUSD", "BC", "eur_usd"]) == ("BC", "EURUSD")
