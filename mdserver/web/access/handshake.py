"""Finds the key of a request: in ``Authorization``, or among the subprotocols of a browser's WebSocket."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["KEY_PROTOCOL", "bearer_key", "offered_key", "subprotocol_to_answer"]

PROTOCOL = "mdserver"
KEY_PROTOCOL = "mdserver.key."
"""Prefix of the subprotocol that carries the key, because a browser's WebSocket cannot send headers."""


def bearer_key(authorization: str | None) -> str | None:
    """Return the key of ``Authorization: Bearer KEY``, or None if there is no key or another scheme."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def offered_key(subprotocols: Sequence[str]) -> str | None:
    """Return the key among the subprotocols, or None if there is none."""
    for offered in subprotocols:
        if offered.startswith(KEY_PROTOCOL):
            return offered.removeprefix(KEY_PROTOCOL)
    return None


def subprotocol_to_answer(subprotocols: Sequence[str]) -> str | None:
    """Return the subprotocol to select; browsers end a connection if they offered any and none is selected."""
    if PROTOCOL in subprotocols:
        return PROTOCOL
    return next((offered for offered in subprotocols if offered.startswith(KEY_PROTOCOL)), None)
