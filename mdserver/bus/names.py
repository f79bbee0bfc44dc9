"""The keys of the bus. All begin with ``md:``, so that an access rule can name them, and with a version. Pure."""

from __future__ import annotations

__all__ = ["answers_key", "demand_prefix", "holder_key", "lease_key", "presence_prefix", "stream_key"]

VERSION = "1"
"""Of the keys and what they hold; frames carry a version of their own."""


def stream_key(broker: str) -> str:
    """Return the stream of a broker's batches."""
    return f"md:{VERSION}:s:{broker}"


def lease_key(broker: str) -> str:
    """Return the lease of who runs a broker."""
    return f"md:{VERSION}:l:{broker}"


def demand_prefix(broker: str) -> str:
    """Return what the keys begin with that hold what each process wants of a broker."""
    return f"md:{VERSION}:d:{broker}:"


def answers_key(broker: str) -> str:
    """Return the key in which the leader says what the venue answered, and how the broker is."""
    return f"md:{VERSION}:a:{broker}"


def holder_key(broker: str) -> str:
    """Return the key that remembers which process led a broker last."""
    return f"md:{VERSION}:h:{broker}"


def presence_prefix() -> str:
    """Return what the keys begin with in which each process says what it is."""
    return f"md:{VERSION}:p:"
