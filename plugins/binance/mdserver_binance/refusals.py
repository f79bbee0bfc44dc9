"""Explains Binance's HTTP statuses, in one plain sentence each with a remedy. No I/O."""

from __future__ import annotations

from mdserver.errors import MdserverError, Rejected, Unavailable
from mdserver.net import RETRY_STATUSES, HttpRefused, HttpUnavailable

__all__ = ["BINANCE_RETRY_STATUSES", "explained"]

BINANCE_RETRY_STATUSES = RETRY_STATUSES | {403}
"""403 is the venue's web application firewall: a pause after too many requests, not a verdict."""

_HELP = {
    401: "Binance's market data need no key: check `url` and `rest_url`, which name another service",
    404: "check `url` and `rest_url`: Binance has no market data there",
    451: "Binance does not serve this location; `url: wss://data-stream.binance.vision` has the same market data,"
    " `wss://stream.binance.us:9443` is the US exchange",
    403: "Binance's firewall blocks this address, or the VPN, proxy or data centre in front of it, usually for a while"
    " after too many requests; the server tries again",
    429: "too many requests or connections from this address; requests before the end of the pause lead to a ban",
    418: "this address is banned for a while because requests went on after a warning; only waiting helps",
}


def explained(error: MdserverError) -> MdserverError:
    """Return an error whose message says what the venue's HTTP status means; others as they are."""
    if isinstance(error, HttpUnavailable) and error.status in _HELP:
        pause = "" if error.retry_after_s is None else f" (requested pause: {error.retry_after_s:g} s)"
        text = f"{error}. {_HELP[error.status]}{pause}"
        return HttpUnavailable(text, status=error.status, retry_after_s=error.retry_after_s)
    if isinstance(error, HttpRefused) and error.status in _HELP:
        return HttpRefused(f"{error}. {_HELP[error.status]}", status=error.status, body=error.body)
    if not isinstance(error, Rejected | Unavailable):
        raise TypeError(f"{error!r}: expected Rejected or Unavailable")
    return error
