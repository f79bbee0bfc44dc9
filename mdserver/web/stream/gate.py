"""The access control of one client: its rights, and the requests that they permit. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from ...model import Topic
from ...protocol.requests import EVERY, Auth, Request, RequestError
from ..access.access import Access, TooManyRequests, WrongKey
from ..access.grant import Grant, Scope

__all__ = ["AUTH_WITHIN_S", "Gate"]

AUTH_WITHIN_S = 10.0
"""A client that needs a key and sends none within this time is closed."""


Broker = TypeVar("Broker")


class Gate:
    """The rights of one connection. ``grant`` None: it needs a key and has sent none yet."""

    def __init__(self, access: Access, address: str) -> None:
        self._access = access
        self._address = address
        self.grant: Grant | None = access.anonymous
        self._entered: Grant | None = None

    @property
    def has_keys(self) -> bool:
        """Whether there are keys to compare one with."""
        return self._access.has_keys

    def admit(self, request: Request) -> None:
        """Count a request. Raises RequestError: 401 without a key, 429 if there are too many requests."""
        try:
            self._access.spend_request(self.grant, self._address)
        except TooManyRequests as error:
            raise RequestError(429, f"{error}; try again in {math.ceil(error.wait_s)} s") from None
        if self.grant is None and not isinstance(request, Auth):
            self._access.count("no_key")
            raise RequestError(401, 'not authenticated: send {"action": "auth", "key": …} first')

    async def present(self, key: str) -> None:
        """Get the rights of a key. Raises RequestError: 402 for a wrong key, 406 if it has too many connections."""
        try:
            grant = await self._access.check(key, self._address)
        except WrongKey:
            raise RequestError(402, "authentication failed: this key is not valid") from None
        except TooManyRequests as error:
            wait_s = math.ceil(error.wait_s)
            raise RequestError(402, f"authentication failed: {error}; try again in {wait_s} s") from None
        self.take(grant)

    def take(self, grant: Grant) -> None:
        """Use rights that were looked up before. Raises RequestError: 406 if their key has too many connections."""
        if self._entered is None or self._entered.id != grant.id:
            if not self._access.enter(grant):
                raise RequestError(406, "too many connections of this key")
            self.leave()
            self._entered = grant
        self.grant = grant

    def leave(self) -> None:
        """Stop counting the connection of the key."""
        if self._entered is not None:
            self._access.leave(self._entered)
            self._entered = None

    def renew(self) -> bool:
        """Use the rights in the present config; return False if the client has none any more."""
        if self.grant is None:
            self.grant = self._access.anonymous
            return True
        self.grant = self._access.current(self.grant)
        return self.grant is not None

    def may(self, scope: Scope) -> bool:
        """Return whether the client may do this."""
        return self.grant is not None and scope in self.grant.scopes

    def permit(self, scope: Scope) -> None:
        """Raise RequestError 409 unless the client may do this."""
        if not self.may(scope):
            self._access.count("not_permitted")
            raise RequestError(409, f"not permitted: this key has no scope {scope}")

    def seen(self, brokers: Mapping[str, Broker]) -> dict[str, Broker]:
        """Return those of some brokers that the client may see anything of: no answer names another."""
        return {name: broker for name, broker in brokers.items() if self.may_use(name)}

    def may_see(self, broker: str | None, symbol: str | None) -> bool:
        """Return whether the client may see a broker's records of a symbol; None means any broker or symbol."""
        return self.grant is not None and self.grant.may_see(broker, symbol)

    def forbids(self, topic: Topic) -> bool:
        """Return whether the client may not have live records of a topic."""
        symbol = None if topic.symbol == EVERY else topic.symbol
        return not (self.may("stream") and self.may_see(topic.broker, symbol))

    @property
    def symbols(self) -> frozenset[str] | None:
        """The symbols that the client may see; None: all."""
        return frozenset() if self.grant is None else self.grant.symbols

    def may_use(self, broker: str) -> bool:
        """Return whether the client may see anything of a broker."""
        return self.grant is not None and self.grant.may_see(broker, None)

    def most_symbols(self, bound: int) -> int:
        """Return how many symbols the client may subscribe: at most ``bound``."""
        own = None if self.grant is None else self.grant.max_symbols
        return bound if own is None else min(bound, own)
