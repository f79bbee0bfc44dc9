"""Canonical symbols: upper case, no separator (``EURUSD``, ``BTCUSDT``). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MAX_LENGTH", "canonical", "canonical_all"]

MAX_LENGTH = 32
"""Characters in the longest canonical symbol; real ones have up to about 20."""

_SEPARATORS = str.maketrans("", "", "/_- ")
_CANONICAL = re.compile(rf"[A-Z0-9.:]{{1,{MAX_LENGTH}}}")


def canonical(text: str) -> str:
    """Return the canonical form: ``eur/usd``, ``EUR_USD`` and ``EUR-USD`` are all ``EURUSD``.

    Base and quote cannot be told from the result; they come from the venue's instrument list.
    Raises ValueError, naming the value, for what cannot be a symbol.
    """
    symbol = text.translate(_SEPARATORS).upper()
    # isascii first: upper() makes ASCII of some other letters, such as SS of a sharp s.
    if not text.isascii() or _CANONICAL.fullmatch(symbol) is None:
        shown = text if len(text) <= 2 * MAX_LENGTH else text[: 2 * MAX_LENGTH] + "…"
        raise ValueError(f"{shown!r} is not a symbol: expected letters and digits, such as EURUSD or EUR/USD")
    return symbol


def canonical_all(texts: Iterable[str]) -> tuple[str, ...]:
    """Return canonical symbols in the order given, each once. Raises as :func:`canonical` does."""
    return tuple(dict.fromkeys(map(canonical, texts)))
