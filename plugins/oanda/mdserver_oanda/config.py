"""The settings of an OANDA broker in ``config.yaml``."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import attrs

__all__ = ["OandaConfig"]

_ACCOUNT = re.compile(r"[0-9A-Za-z-]+")


def _http_url(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise ValueError, with the value and what was expected, unless ``value`` is a bare base URL."""
    field, expected = attribute.name, "expected https:// or http:// and a host"
    if not isinstance(value, str) or any(character.isspace() for character in value):
        raise ValueError(f"{field}: {value!r}; {expected}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{field}: {value!r}: {error}; {expected}") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError(f"{field}: {value!r}; {expected}")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{field}: {value!r} has a query, fragment or user; {expected} and perhaps a path")


def _account(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or _ACCOUNT.fullmatch(value) is None:
        raise ValueError(
            f"{attribute.name}: {value!r}; expected an account number such as 101-004-1234567-001"
        )


def _key(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    # The value is a secret and not shown.
    if (
        not isinstance(value, str)
        or not value
        or not (value.isascii() and value.isprintable())
        or " " in value
    ):
        raise ValueError(f"{attribute.name}: expected the access token as OANDA shows it, without spaces")


@attrs.frozen
class OandaConfig:
    """Where OANDA is and which account is asked.

    ``url``: base address of the price stream; ``rest_url``: of the REST API. The defaults are the practice
    environment; live accounts use ``https://stream-fxtrade.oanda.com`` and ``https://api-fxtrade.oanda.com``.
    ``account_id``: its instruments are what can be subscribed. ``api_key``: the personal access token of the same
    environment. ``silence_s``: with nothing received for so long, not even one of the heartbeats that come every
    5 s, the stream is given up.
    """

    account_id: str = attrs.field(validator=_account, metadata={"credential": True})
    api_key: str = attrs.field(validator=_key, repr=False)
    url: str = attrs.field(default="https://stream-fxpractice.oanda.com", validator=_http_url)
    rest_url: str = attrs.field(default="https://api-fxpractice.oanda.com", validator=_http_url)
    silence_s: float = attrs.field(
        default=10.0, validator=(attrs.validators.ge(0.1), attrs.validators.le(600.0))
    )
