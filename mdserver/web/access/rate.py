"""Limits on how often: a budget of a minute that fills up evenly, for each address or key."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["Budgets", "address_of"]

MINUTE_S = 60.0
MOST = 20_000
"""Addresses that are kept in mind; past it those that have spent least recently are forgotten."""


class Budgets:
    """How much of its minute each of many has spent: one number for each, when its budget is whole again."""

    def __init__(self) -> None:
        self._whole_at: dict[str, float] = {}

    def wait_s(self, who: str, per_minute: int, now: float) -> float:
        """Return for how many seconds ``who`` has nothing left; 0 where there is something."""
        ahead = self._whole_at.get(who, now) - now
        return max(0.0, ahead - (MINUTE_S - MINUTE_S / per_minute))

    def spend(self, who: str, per_minute: int, now: float) -> float:
        """Spend one; return 0, or how many seconds to wait where nothing is left (nothing is spent then)."""
        wait = self.wait_s(who, per_minute, now)
        if wait > 0:
            return wait
        self._whole_at[who] = max(self._whole_at.pop(who, now), now) + MINUTE_S / per_minute
        if len(self._whole_at) > MOST:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        self._whole_at = {who: at for who, at in self._whole_at.items() if at > now}
        for who in list(self._whole_at)[: max(0, len(self._whole_at) - MOST * 3 // 4)]:
            del self._whole_at[who]


def address_of(text: str) -> str:
    """Return what counts as one address: IPv4 as it is, of IPv6 the first 64 bits, which are one subscriber's."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
