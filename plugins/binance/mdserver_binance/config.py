"""The settings of a Binance broker in ``config.yaml``."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import attrs

__all__ = ["BinanceConfig"]


def _check_url(field: str, value: object, schemes: tuple[str, ...]) -> None:
    """Raise ValueError, with the value and what was expected, unless ``value`` is a bare base URL."""
    expected = f"expected {' or '.join(f'{scheme}://' for scheme in schemes)} and a host"
    if not isinstance(value, str):
        raise ValueError(f"{field}: {value!r} is no text; {expected}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{field}: {value!r}: {error}; {expected}") from error
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise ValueError(f"{field}: {value!r}; {expected}")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{field}: {value!r} has a query, fragment or user; {expected} and perhaps a path")
    if any(character.isspace() for character in value):
        raise ValueError(f"{field}: {value!r} holds a space; {expected}")


def _websocket_url(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    _check_url(attribute.name, value, ("wss", "ws"))


def _http_url(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in (None, "auto"):
        _check_url(attribute.name, value, ("https", "http"))


_REST = {
    "stream.binance.com": "https://api.binance.com",
    "data-stream.binance.vision": "https://data-api.binance.vision",
    "stream.binance.us": "https://api.binance.us",
    "stream.testnet.binance.vision": "https://testnet.binance.vision",
}
"""The REST API that belongs to each host of streams."""


@attrs.frozen
class BinanceConfig:
    """Addresses of Binance, the kind of trades, and the permitted silence.

    ``url``: base address of the streams. ``wss://data-stream.binance.vision`` has the same market data for locations
    that the main host refuses; ``wss://stream.binance.us:9443`` is the US exchange. ``rest_url``: base address of the
    REST API, which has the list of symbols, full order books and past trades. ``auto`` uses the one that belongs to
    ``url``, or none if that is not a host of Binance; null: none. Without the list a symbol counts as served after its
    first record. ``trades``: one record for each execution (``trade``), or one for all executions of an order at one
    price (``aggTrade``: fewer messages). ``silence_s``: a connection on which nothing is received for this many
    seconds, not even a pong, is ended.
    """

    url: str = attrs.field(default="wss://stream.binance.com:9443", validator=_websocket_url)
    rest_url: str | None = attrs.field(default="auto", validator=_http_url)
    trades: Literal["trade", "aggTrade"] = attrs.field(
        default="trade", validator=attrs.validators.in_(("trade", "aggTrade"))
    )
    silence_s: float = attrs.field(
        default=60.0, validator=(attrs.validators.ge(1.0), attrs.validators.le(3600.0))
    )

    @property
    def rest_base(self) -> str | None:
        """The base address of the REST API without a slash at its end; None where there is none."""
        if self.rest_url != "auto":
            return None if self.rest_url is None else self.rest_url.rstrip("/")
        return _REST.get((urlsplit(self.url).hostname or "").lower())
