"""Check query parameters: each is known, given once, and in its range. Pure; every fault raises :class:`Problem`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TypeVar

from ...model import US_PER_S
from ...protocol.times import TIMES, Times
from ...symbols import canonical, canonical_all
from ...timeframes import ALIGNS, Timeframe, parse_timeframe
from .problem import Problem, invalid_parameter, missing_parameter, shortened

__all__ = [
    "DEFAULT_TIMEFRAME",
    "MAX_SYMBOLS",
    "check_count",
    "listed_symbols",
    "number_up_to",
    "one_of",
    "query_of",
    "required",
    "symbol_of",
    "symbols_of",
    "time_range_us",
    "time_us",
    "timeframe_of",
    "times_of",
    "words_of",
]

Choice = TypeVar("Choice", bound=str)

MAX_SYMBOLS = 100
"""Symbols in one request."""

DEFAULT_TIMEFRAME = "1h"

MAX_TIME_S = 100_000_000_000
"""Larger times (from the year 5138 on) are assumed to be in another unit."""

_UNITS = (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9))
_NUMBER = re.compile(r"([0-9]{1,40})(?:\.([0-9]{0,40}))?")
_SIGNED = re.compile(r"-\s*[0-9.]+")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}")
_EXPECTED_TIME = "expected Unix seconds, UTC, like 1710918000"
_EXPECTED = {
    "symbol": "a symbol, like EURUSD",
    "timeframe": "minutes or hours that divide a day (1m, 3m, 90m, 4h), 1d, 1w or 1M",
    "from": "Unix seconds, UTC, like 1710918000",
    "to": "Unix seconds, UTC, like 1710918000",
}


def query_of(items: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    """Return the query parameters by name.

    Unknown names are refused (else a typo would be silently ignored), and so are repeated ones. An empty value counts
    as not given. Parameters that browsers and links add to defeat caches or to track visits are ignored.
    """
    query: dict[str, str] = {}
    for name, value in items:
        if name == "_" or name.startswith("utm_"):
            continue
        if name not in known:
            raise invalid_parameter(name, value, f"unknown parameter; {_nearest(name, known)}")
        if name in query:
            raise invalid_parameter(name, value, "given more than once")
        if "\0" in value:  # PostgreSQL takes none in a text
            raise invalid_parameter(name, value, "expected a text without a NUL character")
        query[name] = value
    return {name: value for name, value in query.items() if value}


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name.lower()[:64], known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}known: {', '.join(known) or 'none'}"


def required(query: Mapping[str, str], name: str, expected: str | None = None) -> str:
    """Return the value of a required parameter; ``expected`` says what belongs there."""
    try:
        return query[name]
    except KeyError:
        raise missing_parameter(name, expected or _EXPECTED[name]) from None


def symbol_of(query: Mapping[str, str]) -> str:
    """Return ``symbol`` in its canonical form."""
    text = required(query, "symbol")
    try:
        return canonical(text)
    except ValueError as error:
        raise Problem(400, "invalid_parameter", f"symbol: {error}", param="symbol") from None


def timeframe_of(query: Mapping[str, str]) -> Timeframe:
    """Return ``timeframe`` (default: an hour) with ``align`` (default: ``utc``)."""
    text = query.get("timeframe", DEFAULT_TIMEFRAME)
    try:
        return parse_timeframe(text, one_of(query, "align", ALIGNS, "utc"))
    except ValueError:
        detail = f"timeframe={shortened(text)!r}: expected {_EXPECTED['timeframe']}"
        raise Problem(400, "unknown_timeframe", detail, param="timeframe") from None


def one_of(query: Mapping[str, str], name: str, known: Sequence[Choice], default: Choice) -> Choice:
    """Return a parameter that is one of some words."""
    text = query.get(name)
    if text is None:
        return default
    for one in known:
        if text == one:
            return one
    raise invalid_parameter(name, text, f"expected one of {', '.join(known)}")


def symbols_of(query: Mapping[str, str]) -> tuple[str, ...]:
    """Return ``symbols``, separated by commas, in their canonical form and each once; else the one ``symbol``."""
    text = query.get("symbols")
    if text is None:
        return (symbol_of(query),)
    if "symbol" in query:
        raise invalid_parameter("symbols", text, "expected symbol or symbols, not both")
    return listed_symbols(text)


def listed_symbols(text: str) -> tuple[str, ...]:
    """Return what ``symbols`` lists, in canonical form and each once; at most :data:`MAX_SYMBOLS`."""
    try:
        symbols = canonical_all(text.split(","))
    except ValueError as error:
        raise Problem(400, "invalid_parameter", f"symbols: {error}", param="symbols") from None
    check_count(len(symbols))
    return symbols


def check_count(count: int) -> None:
    """Refuse more symbols than one request may name."""
    if count > MAX_SYMBOLS:
        detail = f"symbols: {count} symbols; at most {MAX_SYMBOLS} in one request"
        raise Problem(400, "range_too_large", detail, param="symbols")


def words_of(
    query: Mapping[str, str], name: str, known: Sequence[str], default: Sequence[str]
) -> tuple[str, ...]:
    """Return a parameter that lists some of these words, each once, in the order given."""
    text = query.get(name)
    if text is None:
        return tuple(default)
    words = tuple(text.split(","))
    wrong = [word for word in words if word not in known]
    if wrong or len(set(words)) < len(words):
        what = f"no {shortened(wrong[0])!r}" if wrong else "each once"
        raise invalid_parameter(name, text, f"expected some of {', '.join(known)}; {what}")
    return words


def time_range_us(query: Mapping[str, str]) -> tuple[int, int]:
    """Return ``from`` and ``to``, both required, in microseconds; both ends belong to the range."""
    first_us = time_us("from", required(query, "from"))
    last_us = time_us("to", required(query, "to"))
    if first_us > last_us:
        raise invalid_parameter("from", query["from"], f"expected no later than to={query['to']}")
    return first_us, last_us


def times_of(query: Mapping[str, str]) -> Times:
    """Return how times are written: ``times``, by default in seconds."""
    return one_of(query, "times", tuple(TIMES), "s")


def number_up_to(query: Mapping[str, str], name: str, most: int, default: int) -> int:
    """Return a whole number in [1, most]."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= most):
        raise invalid_parameter(name, text, f"expected a whole number from 1 to {most}")
    return int(text)


def time_us(name: str, text: str) -> int:
    """Parse Unix seconds, not through a float; digits beyond the microseconds are cut off."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise invalid_parameter(name, text, _why_not_a_time(text))
    seconds = int(match[1])
    if seconds >= MAX_TIME_S:
        raise invalid_parameter(name, text, _why_too_large(seconds))
    return seconds * US_PER_S + int((match[2] or "").ljust(6, "0")[:6])


def _why_not_a_time(text: str) -> str:
    if _SIGNED.fullmatch(text):
        return f"is negative; {_EXPECTED_TIME}"
    if _DATE.match(text):
        return f"looks like a date; {_EXPECTED_TIME}"
    return f"is not a number; {_EXPECTED_TIME}"


def _why_too_large(value: int) -> str:
    for unit, per_second in _UNITS:
        seconds = value // per_second
        if seconds < MAX_TIME_S:
            try:
                day = f" (= {datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ})"
            except (ValueError, OverflowError):  # beyond the year 9999
                day = ""
            return f"looks like {unit}; give seconds: {seconds}{day}"
    return f"is too large; {_EXPECTED_TIME}"
