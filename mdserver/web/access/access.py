"""Access control: keys, which are compared once and remembered, limits, and delays for addresses with wrong keys.

All access settings of the config are here and can be replaced at run time (:meth:`Access.take`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from ipaddress import ip_address

import attrs
import structlog
import trio

from ...config import ServerConfig, is_loopback, is_open
from ...keys import KeyHash, key_id
from ...log import RarelyLogged
from ...metrics import Metrics
from .grant import ANONYMOUS, Grant, grant_of_key
from .origins import Origins
from .rate import Budgets, address_of

__all__ = ["Access", "TooManyRequests", "WrongKey"]

TRIES_PER_MINUTE = 10
"""Wrong keys that are compared for one address; further attempts are refused without a comparison."""
DEFAULT_PER_MINUTE = 600
"""Default limit of requests for an address other than this machine."""
REMEMBERED = 4_096
"""The most keys that are remembered after their comparison."""
COMPARED_AT_ONCE = 1
"""Simultaneous comparisons; each takes a thread, 8 MiB and about 50 ms."""

_log = RarelyLogged(structlog.get_logger("mdserver.web"))


class WrongKey(Exception):
    """The key is not one of this server's."""


class TooManyRequests(Exception):
    """Too many requests. ``wait_s``: the seconds after which to try again."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@attrs.frozen
class _Rules:
    """The access settings of the config; replaced as a whole."""

    has_keys: bool
    anonymous: bool
    by_id: dict[str, tuple[KeyHash, Grant]]
    requests_per_minute: int | None
    origins: Origins

    @classmethod
    def of(cls, server: ServerConfig) -> _Rules:
        keys = server.auth.keys
        by_id = {entry.key_hash.id: (entry.key_hash, grant_of_key(entry)) for entry in keys}
        return cls(bool(keys), is_open(server), by_id, server.requests_per_minute, Origins.of(server))


class Access:
    """The access control of one server."""

    def __init__(self, server: ServerConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rules = _Rules.of(server)
        self._requests = Budgets()
        self._tries = Budgets()
        self._connections: Counter[str] = Counter()
        # Digests under a secret of this process, so the time of a look-up reveals nothing about similar keys.
        self._pepper = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._comparing = trio.CapacityLimiter(COMPARED_AT_ONCE)

    def take(self, server: ServerConfig) -> None:
        """Use the keys, limits and origins of a checked config; remembered keys are forgotten."""
        self._rules = _Rules.of(server)
        self._known.clear()

    @property
    def has_keys(self) -> bool:
        """Whether there are keys to compare one with."""
        return self._rules.has_keys

    @property
    def anonymous(self) -> Grant | None:
        """The rights of a client without a key, or None if a key is required."""
        return ANONYMOUS if self._rules.anonymous else None

    @property
    def origins(self) -> Origins:
        """Which hosts and origins are ours, or allowed."""
        return self._rules.origins

    def current(self, grant: Grant) -> Grant | None:
        """Return the present rights of the holder of ``grant``, or None if there are none any more."""
        if not grant.id:
            return self.anonymous
        found = self._rules.by_id.get(grant.id)
        return None if found is None else found[1]

    async def check(self, key: str, address: str) -> Grant:
        """Return the rights of a key. A remembered key takes microseconds, a new one about 50 ms.

        Raises :class:`WrongKey`, and :class:`TooManyRequests` if the address has tried too many wrong keys.
        """
        rules = self._rules
        name = key_id(key)
        found = None if name is None else rules.by_id.get(name)
        if found is not None:
            mark = hashlib.blake2b(key.encode(), key=self._pepper, digest_size=32).digest()
            if self._known.get(mark) == name:
                self._known.move_to_end(mark)
                return found[1]
        who = address_of(address)
        wait_s = self._tries.wait_s(who, TRIES_PER_MINUTE, trio.current_time())
        if wait_s > 0:
            self.count("slowed")
            raise TooManyRequests("too many wrong keys from this address", wait_s)
        if found is not None and await trio.to_thread.run_sync(
            found[0].matches, key, limiter=self._comparing, abandon_on_cancel=True
        ):
            if rules is self._rules:  # otherwise the key may have been removed meanwhile
                self._remember(mark, found[0].id)
                return found[1]
            return await self.check(key, address)
        self._tries.spend(who, TRIES_PER_MINUTE, trio.current_time())
        self.count("wrong_key")
        _log.warning("A client's key is wrong", address=address)
        raise WrongKey

    def _remember(self, mark: bytes, name: str) -> None:
        self._known[mark] = name
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def spend_request(self, grant: Grant | None, address: str) -> None:
        """Count a request, for a key with a limit of its own or else for the address. Raises TooManyRequests."""
        if grant is not None and grant.requests_per_minute is not None:
            who, per_minute, whose = f"key {grant.id}", grant.requests_per_minute, "of this key"
        else:
            limit = self._rules.requests_per_minute
            if limit is None and _is_here(address):
                return
            who, per_minute, whose = address_of(address), limit or DEFAULT_PER_MINUTE, "from this address"
        wait_s = self._requests.spend(who, per_minute, trio.current_time())
        if wait_s > 0:
            self.count("rate")
            raise TooManyRequests(f"too many requests {whose}: {per_minute} a minute are allowed", wait_s)

    def enter(self, grant: Grant) -> bool:
        """Count a connection of a key; return False beyond its limit. Each accepted one needs a :meth:`leave`."""
        if grant.max_connections is not None and self._connections[grant.id] >= grant.max_connections:
            self.count("key_connections")
            return False
        self._connections[grant.id] += 1
        return True

    def leave(self, grant: Grant) -> None:
        """Stop counting a connection."""
        self._connections[grant.id] -= 1
        if not self._connections[grant.id]:
            del self._connections[grant.id]

    def count(self, reason: str) -> None:
        """Count a refusal in the metrics."""
        self._metrics.access_refused.labels(reason).inc()


def _is_here(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return address == "<local>"
    return is_loopback(address)
