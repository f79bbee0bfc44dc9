"""The key that a request brings: in ``Authorization``, or among the subprotocols of a browser's WebSocket."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["KEY_PROTOCOL", "bearer_key", "offered_key", "subprotocol_to_answer"]

PROTOCOL = "mdserver"
KEY_PROTOCOL = "mdserver.key."
"""A browser's WebSocket can send no headers, only subprotocols: this and the key is one."""


def bearer_key(authorization: str | None) -> str | None:
    """Return the key of ``Authorization: Bearer KEY``; None where there is none, or another scheme."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def offered_key(subprotocols: Sequence[str]) -> str | None:
    """Return the key among the subprotocols; None where there is none."""
    for offered in subprotocols:
        if offered.startswith(KEY_PROTOCOL):
            return offered.removeprefix(KEY_PROTOCOL)
    return None


def subprotocol_to_answer(subprotocols: Sequence[str]) -> str | None:
    """Return the subprotocol to choose: browsers end a connection that offered some and got none."""
    if PROTOCOL in subprotocols:
        return PROTOCOL
    return next((offered for offered in subprotocols if offered.startswith(KEY_PROTOCOL)), None)
