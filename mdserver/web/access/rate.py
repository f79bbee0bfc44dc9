"""Rate limits: a budget for each address or key that is one minute's requests and refills evenly."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["Budgets", "address_of"]

MINUTE_S = 60.0
MOST = 20_000
"""The most addresses that are remembered; beyond it the least recently active ones are forgotten."""


class Budgets:
    """The budgets of many clients. Each is one number: the time at which the budget is full again."""

    def __init__(self) -> None:
        self._whole_at: dict[str, float] = {}

    def wait_s(self, who: str, per_minute: int, now: float) -> float:
        """Return the seconds until ``who`` has budget again; 0 if there is some now."""
        ahead = self._whole_at.get(who, now) - now
        return max(0.0, ahead - (MINUTE_S - MINUTE_S / per_minute))

    def spend(self, who: str, per_minute: int, now: float) -> float:
        """Spend one request and return 0; if nothing is left, spend nothing and return the seconds to wait."""
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
    """Return the unit of a limit: an IPv4 address, or the first 64 bits of an IPv6 address (one subscriber)."""
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
