"""The settings of a Kraken broker in ``config.yaml``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import attrs

__all__ = ["KrakenConfig"]


def _url(*schemes: str) -> Any:
    """Return a validator of base addresses with one of these schemes."""
    expected = f"expected {' or '.join(f'{scheme}://' for scheme in schemes)} and a host"

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{attribute.name}: {value!r} is no text; {expected}")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{attribute.name}: {value!r}: {error}; {expected}") from error
        if parts.scheme not in schemes or not parts.hostname or port == 0:
            raise ValueError(f"{attribute.name}: {value!r}; {expected}")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(
                f"{attribute.name}: {value!r} has a query, fragment or user; {expected} and a path"
            )
        if any(character.isspace() for character in value):
            raise ValueError(f"{attribute.name}: {value!r} holds a space; {expected}")

    return check


@attrs.frozen
class KrakenConfig:
    """Addresses of Kraken, and the permitted silence.

    ``url``: address of the v2 stream; ``rest_url``: base address of the REST API, from which missed trades are fetched.
    ``silence_s``: a connection on which nothing is received for this many seconds is ended; the venue sends heartbeats
    every second.
    """

    url: str = attrs.field(default="wss://ws.kraken.com/v2", validator=_url("wss", "ws"))
    rest_url: str = attrs.field(default="https://api.kraken.com", validator=_url("https", "http"))
    silence_s: float = attrs.field(
        default=10.0, validator=(attrs.validators.ge(2.0), attrs.validators.le(3600.0))
    )
