"""The terms of a client's subscription to a topic: the encoding, the rate, and what may be left out."""

from __future__ import annotations

from typing import NamedTuple

from .encoding import PLAIN, Encoding

__all__ = ["PLAIN_TERMS", "Terms"]


class Terms(NamedTuple):
    """The options of a subscription.

    ``rate_ms``: at most one record in this many milliseconds, if the latest may replace earlier ones; 0: all records.
    ``keep_all``: nothing is conflated while the client is behind. ``symbols``: for a topic that stands for all symbols
    of a broker, the symbols that the client may see; None: all.
    """

    encoding: Encoding = PLAIN
    rate_ms: int = 0
    keep_all: bool = False
    symbols: frozenset[str] | None = None


PLAIN_TERMS = Terms()
