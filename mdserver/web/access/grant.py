"""The rights of a client: those of its key, or of anonymous clients."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from ...config import KeyEntry

__all__ = ["ANONYMOUS", "Grant", "Scope", "grant_of_key"]

Scope: TypeAlias = Literal["stream", "history"]


@attrs.frozen
class Grant:
    """Rights. ``brokers`` and ``symbols``: None means all. ``id`` names the key; it is empty for anonymous clients.

    ``requests_per_minute`` None: the limit of the address applies. The other limits None: those of the server apply.
    """

    name: str
    id: str = ""
    scopes: frozenset[Scope] = frozenset(("stream", "history"))
    brokers: frozenset[str] | None = None
    symbols: frozenset[str] | None = None
    requests_per_minute: int | None = None
    max_connections: int | None = None
    max_symbols: int | None = None

    def may_see(self, broker: str | None, symbol: str | None) -> bool:
        """Return whether the client may see a broker's records of a symbol; None means any broker or symbol."""
        return (self.brokers is None or broker is None or broker in self.brokers) and (
            self.symbols is None or symbol is None or symbol in self.symbols
        )

    @property
    def is_whole(self) -> bool:
        """Whether the client may see every broker and symbol."""
        return self.brokers is None and self.symbols is None


ANONYMOUS = Grant("anonymous")
"""The rights of clients without a key, if they are allowed."""


def grant_of_key(entry: KeyEntry) -> Grant:
    """Return the rights that the config gives a key."""
    return Grant(
        entry.name,
        entry.key_hash.id,
        frozenset(entry.scopes),
        None if entry.brokers is None else frozenset(entry.brokers),
        None if entry.symbols is None else frozenset(entry.symbols),
        entry.requests_per_minute,
        entry.max_connections,
        entry.max_symbols,
    )
