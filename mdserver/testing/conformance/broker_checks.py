"""The checks of a broker, by name, in the order of the scorecard.

Each is a function that returns a fact for the scorecard or raises Failed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from .cases import BrokerCase, HttpCase
from .fault_checks import gaps, garbage, pace, reconnect, rejection, secrets, silence
from .record_checks import back_pressure, loop, times_and_numbers
from .session_checks import cancellation, demand, descriptor, lifecycle, nothing_behind, refusal
from .watch import SessionWatch

__all__ = ["BROKER_CHECKS", "POLLING_CHECKS", "BrokerCheck"]

BrokerCheck: TypeAlias = Callable[[BrokerCase[Any], SessionWatch], Awaitable[str]]

BROKER_CHECKS: dict[str, BrokerCheck] = {
    "descriptor": descriptor,
    "lifecycle": lifecycle,
    "cancellation": cancellation,
    "demand": demand,
    "refusal": refusal,
    "reconnect": reconnect,
    "gaps": gaps,
    "silence": silence,
    "garbage": garbage,
    "back-pressure": back_pressure,
    "times and numbers": times_and_numbers,
    "rejection": rejection,
    "secrets": secrets,
    "nothing left behind": nothing_behind,
    "loop never blocked": loop,
}

POLLING_CHECKS: dict[str, Callable[[HttpCase[Any], SessionWatch], Awaitable[str]]] = {"pace": pace}
"""Those of a broker that asks its venue again and again, besides."""
