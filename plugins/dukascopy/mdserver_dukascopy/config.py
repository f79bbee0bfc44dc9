"""The settings of Dukascopy as a source of history in ``config.yaml``."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import attrs

from mdserver.market_hours import MARKETS, Market
from mdserver.symbols import canonical

__all__ = ["DukascopyConfig", "ExtraInstrument", "Service"]

_CODE = re.compile(r"[A-Za-z0-9.-]{0,40}")

Service: TypeAlias = Literal["datafeed", "jetta"]
"""``datafeed``: the files of the old service; ``jetta``: the newer JSON API."""

SERVICES: tuple[Service, ...] = ("datafeed", "jetta")


def _url(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    expected = "expected http:// or https:// with a host and perhaps a path"
    if not isinstance(value, str) or any(character.isspace() for character in value):
        raise ValueError(f"{attribute.name}: found {value!r}, {expected}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{attribute.name}: found {value!r}: {error}; {expected}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{attribute.name}: found {value!r}, {expected}")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{attribute.name}: found {value!r} with a query, fragment or user; {expected}")


def _number(low: float, high: float) -> Any:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low <= value <= high):
            expected = f"a number from {low:g} to {high:g}"
            raise ValueError(f"{attribute.name}: found {value!r}, expected {expected}")

    return check


def _integer(low: int, high: int) -> Any:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            raise ValueError(f"{attribute.name}: found {value!r}, expected an integer from {low} to {high}")

    return check


def _services(_instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or len(set(value)) != len(value) or not set(value) <= set(SERVICES):
        expected = f"one or both of {', '.join(SERVICES)}, each once"
        raise ValueError(f"{attribute.name}: found {list(value)!r}, expected {expected}")


def _header(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and value.isascii() and value.isprintable()):
        raise ValueError(f"{attribute.name}: found {value!r}, expected printable ASCII text")


def _canonical(value: object) -> object:
    return canonical(value) if isinstance(value, str) else value


def _code(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and _CODE.fullmatch(value)):
        raise ValueError(f"{attribute.name}: found {value!r}, expected letters, digits, dots and dashes")


def _with_slash(value: object) -> object:
    return value if not isinstance(value, str) or value.endswith("/") else value + "/"


@attrs.frozen
class ExtraInstrument:
    """An instrument that the table of this version does not have: a new one, or one that was delisted.

    ``code`` is its name in the datafeed's paths and ``jetta_code`` the one in the JSON API, each the symbol itself
    if not given. A price in a file is an integer of ``10 ** -decimals``; a wrong number here is a wrong price, so
    there is no default. ``market``: ``fx``, ``crypto`` (always open) or ``session``.
    """

    symbol: str = attrs.field(converter=_canonical)
    decimals: int = attrs.field(validator=_integer(0, 12))
    market: Market = attrs.field(default="session", validator=attrs.validators.in_(MARKETS))
    code: str = attrs.field(default="", validator=_code)
    jetta_code: str = attrs.field(default="", validator=_code)


@attrs.frozen
class DukascopyConfig:
    """Where Dukascopy is and how it is asked.

    ``url``, ``jetta_url``: base addresses of the two services; ``services``: which to use, in this order: the
    next one is asked where one has an outage, refuses us, or has a damaged file.
    ``user_agent``, ``referer``: the services turn away what does not look like a browser.
    ``concurrency``: requests at once to one service; ``pause_s``: least time between the starts of two.
    ``timeout_s``: longest time for one complete answer; ``attempts`` and ``give_up_s`` bound what is tried for
    one file at one service; ``backoff_s``: the first wait between two attempts, doubled each time up to
    ``max_backoff_s``, less a random part. A longer Retry-After is honoured up to ``give_up_s``.
    ``down_s``: a service with an outage is left alone for so long, then tried once.
    ``settle_s``: until so long after its end an hour may still change: no answer is kept, no hour is called
    empty for good. ``instruments``: those that the table of this version does not have.
    """

    url: str = attrs.field(
        default="https://datafeed.dukascopy.com/datafeed/", converter=_with_slash, validator=_url
    )
    jetta_url: str = attrs.field(
        default="https://jetta.dukascopy.com/v1/", converter=_with_slash, validator=_url
    )
    services: tuple[Service, ...] = attrs.field(default=SERVICES, validator=_services)
    user_agent: str = attrs.field(
        default="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", validator=_header
    )
    referer: str = attrs.field(default="https://freeserv.dukascopy.com/", validator=_header)
    concurrency: int = attrs.field(default=6, validator=_integer(1, 32))
    pause_s: float = attrs.field(default=0.1, validator=_number(0, 60))
    timeout_s: float = attrs.field(default=15.0, validator=_number(0.1, 600))
    attempts: int = attrs.field(default=5, validator=_integer(1, 20))
    give_up_s: float = attrs.field(default=60.0, validator=_number(0, 3600))
    backoff_s: float = attrs.field(default=1.0, validator=_number(0, 60))
    max_backoff_s: float = attrs.field(default=30.0, validator=_number(0, 600))
    down_s: float = attrs.field(default=60.0, validator=_number(0, 3600))
    settle_s: float = attrs.field(default=4 * 3600.0, validator=_number(0, 7 * 86_400))
    instruments: tuple[ExtraInstrument, ...] = ()
