"""The terms on which one client gets one topic: besides the bytes, how often, and what may be left out for it."""

from __future__ import annotations

from typing import NamedTuple

from .encoding import PLAIN, Encoding

__all__ = ["PLAIN_TERMS", "Terms"]


class Terms(NamedTuple):
    """What a subscription asked for.

    ``rate_ms``: at most one record in so many milliseconds where the latest may stand for those before; 0: all.
    ``keep_all``: nothing is conflated while the client is behind. ``symbols``: of a topic that stands for all symbols
    of a broker, those that the client may see; None: all.
    """

    encoding: Encoding = PLAIN
    rate_ms: int = 0
    keep_all: bool = False
    symbols: frozenset[str] | None = None


PLAIN_TERMS = Terms()
