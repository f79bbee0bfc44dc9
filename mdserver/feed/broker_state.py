"""The states of a broker, the allowed changes between them, and the view of them for operators."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from time import time
from types import MappingProxyType
from typing import Literal, TypeAlias

from msgspec import Struct

from ..metrics import Metrics

__all__ = ["BrokerState", "Outcome", "SessionError", "Shared", "State", "StateChange", "StateHistory"]

KEPT = 10
"""The most errors, and changes of state, that are kept for each broker."""

Outcome: TypeAlias = Literal["rejected", "crashed", "unavailable"]
"""How a session ended: by a final refusal, by a bug of the plugin, or for a reason that may pass."""


class State(StrEnum):
    """The states of a broker.

    ``degraded``: connected, but the venue refuses feeds of the config. ``failed``: it does not connect again until it
    is restarted or its config changes. ``stopped``: the server stops, or the config no longer has the broker.
    """

    STARTING = "starting"
    LIVE = "live"
    DEGRADED = "degraded"
    BACKOFF = "backoff"
    STANDBY = "standby"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_up(self) -> bool:
        """Whether a session is connected."""
        return self in (State.LIVE, State.DEGRADED)

    @property
    def is_over(self) -> bool:
        """Whether there will be no further session unless the broker is restarted."""
        return self in (State.FAILED, State.STOPPED)


_ENDS = frozenset({State.BACKOFF, State.STANDBY, State.FAILED, State.STOPPED})

NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.STARTING: _ENDS | {State.STARTING, State.LIVE},
        State.LIVE: _ENDS | {State.STARTING, State.DEGRADED},
        State.DEGRADED: _ENDS | {State.STARTING, State.LIVE},
        State.BACKOFF: frozenset({State.STARTING, State.STANDBY, State.STOPPED, State.FAILED}),
        State.STANDBY: _ENDS | {State.STARTING, State.LIVE, State.DEGRADED},
        State.FAILED: frozenset({State.STARTING, State.STANDBY, State.STOPPED}),
        State.STOPPED: frozenset({State.STARTING, State.STANDBY, State.FAILED}),
    }
)
"""The states that may follow each state. The change from a connected state to starting is a restart."""


class StateChange(Struct, frozen=True):
    """A state that a broker entered, with a text for operators; ``time`` is in Unix seconds."""

    time: float
    state: State
    message: str


class SessionError(Struct, frozen=True):
    """Why a session ended; ``time`` is in Unix seconds."""

    time: float
    outcome: Outcome
    message: str


class Shared(Struct, frozen=True):
    """How several processes share a broker: this process, the one that leads, its fence.

    ``lag``: how old the newest record from the bus was when it came, in seconds; None for the leader.
    """

    process: str
    leader: str | None
    fence: int | None
    lag: float | None


class BrokerState(Struct, frozen=True):
    """A broker as operators see it. Times are Unix seconds; errors and changes are the latest ones, newest first.

    ``feeds`` is the number of wanted feeds, ``active`` the number of those that the venue has confirmed; ``refused``
    has the config's feeds that the venue refuses, with the reasons.
    """

    name: str
    plugin: str
    state: State
    since: float
    attempt: int
    last_error: str | None
    last_event: float | None
    feeds: int
    active: int
    refused: dict[str, str]
    errors: tuple[SessionError, ...] = ()
    changes: tuple[StateChange, ...] = ()
    bus: Shared | None = None


class StateHistory:
    """The present state of one broker and its history; the state changes only here."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.state = State.STARTING
        self.since_s = time()
        self._name = name
        self._metrics = metrics
        self._changes: deque[StateChange] = deque(maxlen=KEPT)
        self._errors: deque[SessionError] = deque(maxlen=KEPT)

    @property
    def last_error(self) -> str | None:
        """Why the last session ended, None if none has."""
        return self._errors[0].message if self._errors else None

    @property
    def errors(self) -> tuple[SessionError, ...]:
        """The latest errors, newest first."""
        return tuple(self._errors)

    @property
    def changes(self) -> tuple[StateChange, ...]:
        """The latest changes, newest first."""
        return tuple(self._changes)

    def note_error(self, outcome: Outcome, message: str) -> None:
        """Record why a session ended."""
        self._errors.appendleft(SessionError(time(), outcome, message))
        self._metrics.sessions.labels(self._name, outcome).inc()

    def enter(self, state: State, message: str) -> bool:
        """Change the state; return whether state or text differ. Raises ValueError if the change is not allowed."""
        before = self.state
        if state is before and state is not State.STARTING:
            return False
        if state not in NEXT[before]:
            raise ValueError(f"broker {self._name}: found {state} after {before}")
        self.state, self.since_s = state, time()
        self._changes.appendleft(StateChange(self.since_s, state, message))
        self._metrics.broker_up.labels(self._name).set(state.is_up)
        self._metrics.broker_state.labels(self._name, before).set(0)
        self._metrics.broker_state.labels(self._name, state).set(1)
        self._metrics.broker_state_changes.labels(self._name, state).inc()
        return True
