"""Explains Kraken's HTTP statuses, in one plain sentence each with a remedy. No I/O."""

from __future__ import annotations

from mdserver.errors import MdserverError
from mdserver.net import RETRY_STATUSES, HttpRefused, HttpUnavailable

__all__ = ["KRAKEN_RETRY_STATUSES", "explained"]

KRAKEN_RETRY_STATUSES = RETRY_STATUSES | {403}
"""403 is the network in front of the venue after too many attempts: a pause of minutes, not a verdict."""

_HELP = {
    401: "Kraken's market data need no key: check `url` and `rest_url`, which name another service",
    403: "the network in front of Kraken blocks this address, usually for minutes after too many attempts; the server "
    "tries again",
    404: "check `url`, which ends in /v2, and `rest_url`",
    429: "too many connections or requests from this address; the server tries again after a pause",
    451: "Kraken does not serve this location",
}


def explained(error: MdserverError) -> MdserverError:
    """Return an error whose message says what the venue's HTTP status means; others as they are."""
    if isinstance(error, HttpUnavailable) and error.status in _HELP:
        text = f"{error}. {_HELP[error.status]}"
        return HttpUnavailable(text, status=error.status, retry_after_s=error.retry_after_s)
    if isinstance(error, HttpRefused) and error.status in _HELP:
        return HttpRefused(f"{error}. {_HELP[error.status]}", status=error.status, body=error.body)
    return error
