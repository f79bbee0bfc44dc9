"""Which service to ask, when one of them does not work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import trio

from mdserver.errors import MdserverError

from .config import Service

__all__ = ["Outages", "Turn"]


class Turn(NamedTuple):
    """A service to ask, and how often. ``fails_over``: the rest of the attempts is void once it is down."""

    service: Service
    attempts: int
    fails_over: bool


class Outages:
    """Remembers which services are down. ``bases``: their addresses, in the order to ask them.

    A service that is down is left alone for ``down_s`` as long as another one is up, then one task tries it
    once. While all are down each is tried as if it were up; once only if none has ever answered: then it is rather this
    machine that is not connected.
    """

    def __init__(
        self, bases: Mapping[Service, str], *, attempts: int, down_s: float, notice: Callable[[str], None]
    ) -> None:
        self._bases = bases
        self._attempts = attempts
        self._down_s = down_s
        self._notice = notice
        self._down_until: dict[Service, float] = {}
        self._why: dict[Service, str] = {}
        self._ever_answered = False

    def turns(self) -> list[Turn]:
        """Return all services in the order to ask them now; those that are down come last."""
        now = trio.current_time()
        up = [service for service in self._bases if service not in self._down_until]
        if not up:
            attempts = self._attempts if self._ever_answered else 1
            return [Turn(service, attempts, fails_over=False) for service in self._bases]
        turns: list[Turn] = []
        last: list[Turn] = []
        for service in self._bases:
            if service in up:
                turns.append(Turn(service, self._attempts, fails_over=len(self._bases) > 1))
            elif self._down_until[service] <= now:
                self._down_until[service] = now + self._down_s  # the others do not try too
                turns.append(Turn(service, 1, fails_over=False))
            else:
                last.append(Turn(service, 1, fails_over=False))
        return turns + last

    def outage(self, service: Service) -> str | None:
        """Return the error that began the service's outage; None while it has none."""
        return self._why[service] if service in self._down_until else None

    def failed(self, service: Service, error: MdserverError) -> None:
        """Record an outage; the first one is reported to the operator, with the service that is asked instead."""
        if service not in self._down_until:
            up = [self._bases[name] for name in self._bases if name not in {service, *self._down_until}]
            instead = f"; going on with {up[0]}" if up else ""
            # Not the file that happened to be asked for.
            why = re.sub(rf"^{re.escape(self._bases[service])}\S*: ", "", str(error))
            self._notice(f"{self._bases[service]} does not serve us: {why}{instead}")
            self._why[service] = why
        self._down_until[service] = trio.current_time() + self._down_s

    def everywhere(self) -> str | None:
        """Return in one sentence why no service can be asked, the same for each hour; None while one is up."""
        if len(self._down_until) < len(self._bases):
            return None
        whys = "; ".join(f"{base}: {self._why[service]}" for service, base in self._bases.items())
        hint = "" if self._ever_answered else "; is this machine connected to the internet?"
        return f"no service answers: {whys}{hint}"

    def answered(self, service: Service) -> None:
        """Record that the service works."""
        self._ever_answered = True
        if self._down_until.pop(service, None) is not None:
            self._notice(f"{self._bases[service]} answers again")
