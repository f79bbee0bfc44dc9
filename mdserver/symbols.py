"""Canonical symbols: upper case, no separator (``EURUSD``, ``BTCUSDT``, ``币安人生USDT``). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import category, normalize

__all__ = ["MAX_LENGTH", "canonical", "canonical_all", "symbols_of_lines"]

MAX_LENGTH = 32
"""Characters in the longest canonical symbol; real ones have up to about 20."""

_SEPARATORS = str.maketrans("", "", "/_- ")
_CANONICAL = re.compile(rf"(?:[A-Z0-9.:]|[^\x00-\x7f]){{1,{MAX_LENGTH}}}")


def canonical(text: str) -> str:
    """Return the canonical form: ``eur/usd``, ``EUR_USD`` and ``EUR-USD`` are all ``EURUSD``.

    Letters and digits of every script count (``币安人生USDT``), in Unicode's composed form (NFC).
    Base and quote cannot be told from the result; they come from the venue's instrument list.
    Raises ValueError, naming the value, for what cannot be a symbol.
    """
    symbol = text.translate(_SEPARATORS).upper() if text.isascii() else _of_any_script(text)
    if _CANONICAL.fullmatch(symbol) is None:
        shown = text if len(text) <= 2 * MAX_LENGTH else text[: 2 * MAX_LENGTH] + "…"
        raise ValueError(f"{shown!r} is not a symbol: expected letters and digits, such as EURUSD or EUR/USD")
    return symbol


def _upper(letter: str) -> str:
    """Return a letter's upper case, if that is one letter too and does not turn into one of ASCII."""
    upper = letter.upper()
    return upper if len(upper) == 1 and (letter.isascii() or not upper.isascii()) else letter


def _of_any_script(text: str) -> str:
    """Return a text in upper case without separators; an empty one where it holds anything but letters and digits."""
    if len(text) > 4 * MAX_LENGTH:
        return ""
    composed = "".join(map(_upper, normalize("NFC", text).translate(_SEPARATORS)))
    known = all(one in ".:" or category(one)[0] in "LM" or category(one) == "Nd" for one in composed)
    # what becomes ASCII in upper case (a sharp s, a dotless i) would read as another symbol
    turns_ascii = any(not one.isascii() and one.upper().isascii() for one in composed)
    stable = normalize("NFC", composed) == composed
    begins = composed and category(composed[0])[0] != "M"
    return composed if begins and known and stable and not turns_ascii else ""


def canonical_all(texts: Iterable[str]) -> tuple[str, ...]:
    """Return canonical symbols in the order given, each once. Raises as :func:`canonical` does."""
    return tuple(dict.fromkeys(map(canonical, texts)))


def symbols_of_lines(text: str) -> tuple[str, ...]:
    """Return the canonical symbols of a text with one in each line, each once.

    Empty lines and what follows a ``#`` do not count. Raises ValueError, naming the line, for what cannot be a symbol,
    and for a text without any.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (name := line.partition("#")[0].strip()):
            continue
        try:
            found[canonical(name)] = None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not found:
        raise ValueError("found no symbol, expected one in each line")
    return tuple(found)
