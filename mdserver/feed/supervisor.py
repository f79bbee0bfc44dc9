"""Keeps every broker running: sessions, backoff, watchdog, state.

One broker's failure never reaches another: a session's errors end here. Named failures are handled by
name; anything else is a bug of the plugin, logged whole and tried again a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import time
from types import MappingProxyType
from typing import Literal, TypeAlias

import trio
from msgspec import Struct

from ..backoff import Backoff
from ..errors import ConfigError, Rejected, Unavailable, leaves
from ..metrics import Metrics
from ..plugin import Broker, BrokerPlugin
from .broker_host import Host, clean_text
from .demand import BrokerDemand

__all__ = ["BrokerFollower", "BrokerState", "StateName", "SupervisedBroker", "Supervisor"]

StateName: TypeAlias = Literal["starting", "live", "degraded", "backoff", "failed", "stopped"]

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
STABLE_S = 60.0
"""A session that was live this long resets the backoff."""
MAX_CRASHES = 5
"""Unknown exceptions in a row after which a broker is given up."""
START_TIMEOUT_S = 60.0
"""A session must be connected within this time."""
STOP_TIMEOUT_S = 3.0
"""A cancelled session may clean up this long."""

Outcome: TypeAlias = Literal["rejected", "crashed", "unavailable"]
"""How a session ended: for a reason that no retry changes, by a bug of the plugin, or for one that may pass."""

StateListener: TypeAlias = Callable[["SupervisedBroker", StateName, str], None]
"""Called with the broker, its new state, and a text for people."""


BrokerFollower: TypeAlias = Callable[["SupervisedBroker"], None]


class BrokerState(Struct, frozen=True):
    """A broker as operators see it. Times are Unix seconds.

    ``feeds`` counts what is wanted now, ``active`` what the venue confirmed of it.
    """

    name: str
    plugin: str
    state: StateName
    since: float
    attempt: int
    last_error: str | None
    last_event: float | None
    feeds: int
    active: int
    refused: dict[str, str]


class SupervisedBroker:
    """One broker: its plugin, its demand, its host and its state."""

    def __init__(
        self,
        plugin: BrokerPlugin,
        make: Callable[[], Broker],
        demand: BrokerDemand,
        host: Host,
        metrics: Metrics,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = host.name
        self.plugin = plugin
        self.demand = demand
        self.host = host
        self.state: StateName = "starting"
        self.since_s = time()
        self.attempt = 0
        self.last_error: str | None = None
        self.listeners: list[StateListener] = []
        self._make = make
        self._metrics = metrics
        self._crashes = 0
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S) if backoff is None else backoff

    def snapshot(self) -> BrokerState:
        """Return the state now."""
        refused = {f"{feed.symbol} {feed.type}": why for feed, why in self.demand.refused().items()}
        state: StateName = "degraded" if self.state == "live" and refused else self.state
        return BrokerState(
            self.name,
            self.plugin.name,
            state,
            self.since_s,
            self.attempt,
            self.last_error,
            self.host.last_event_s,
            len(self.demand.current()),
            self.demand.count(),
            refused,
        )

    async def run(self) -> None:
        """Run sessions until cancelled, or until the broker is given up (state ``failed``)."""
        log = self.host.log
        try:
            while True:
                wait_s = await self._one_session()
                if wait_s is None:
                    log.error("broker given up", error=self.last_error)
                    self.give_up(self.last_error or "")
                    return
                log.info("broker backs off", seconds=round(wait_s, 1), attempt=self.attempt)
                self._enter("backoff", f"next attempt in {wait_s:.0f} s: {self.last_error}")
                await trio.sleep(wait_s)
        except trio.Cancelled:
            self._enter("stopped", "the server stops")
            raise

    def give_up(self, reason: str) -> None:
        """Count as failed from now on: whoever waits for an answer gets it, or the next broker's."""
        self.last_error = reason
        self._enter("failed", reason)
        self.demand.refuse(self.demand.current(), f"{self.name} has failed: {reason}")

    async def _one_session(self) -> float | None:
        """Run one session; return how long to wait before the next, or None to give up."""
        self.attempt += 1
        self.demand.begin_session()
        self._enter("starting", "connecting")
        live_since: float | None = None
        error: BaseException

        def went_live() -> None:
            nonlocal live_since
            live_since = trio.current_time()
            self._enter("live", "connected")

        outcome: Outcome = "unavailable"
        error = Unavailable("")
        try:
            await self._session(went_live)
        except* (Exception, SystemExit) as group:  # a plugin's own exit ends its session, not the server
            outcome, error = _judge(group)
            if outcome == "crashed":
                self.host.log.exception("broker crashed", exc_info=group)
                self._crashes += 1
        self.demand.end_session()
        if live_since is not None:
            self.host.gap("disconnected")
        if live_since is not None and trio.current_time() - live_since >= STABLE_S:
            self.attempt = self._crashes = 0
            self._backoff.reset()
        return self._note(outcome, error, give_up=outcome == "rejected" or self._crashes >= MAX_CRASHES)

    async def _session(self, went_live: Callable[[], None]) -> None:
        broker = self._make()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(START_TIMEOUT_S) as deadline:
                await nursery.start(self._pump, broker)
            if deadline.cancelled_caught:
                raise Unavailable(
                    f"not connected within {START_TIMEOUT_S:.0f} s: the plugin's run() has not called "
                    "task_status.started()"
                )
            went_live()
            if self.plugin.silence_s is not None:
                await self._watch(self.plugin.silence_s, nursery)

    async def _pump(self, broker: Broker, *, task_status: trio.TaskStatus[None]) -> None:
        await broker.run(self.host, task_status=task_status)
        raise Unavailable("the venue ended the session")

    async def _watch(self, silence_s: float, nursery: trio.Nursery) -> None:
        """End a session that gave neither records nor heartbeats for ``silence_s`` though feeds are wanted."""
        seen, since = self.host.last_event_s, trio.current_time()
        while True:
            await trio.sleep(silence_s / 10)
            now = trio.current_time()
            if self.host.last_event_s != seen or not self.demand.current():
                seen, since = self.host.last_event_s, now
            elif now - since > silence_s:
                raise Unavailable(f"nothing from the venue for {now - since:.0f} s")

    def _note(self, outcome: Outcome, error: BaseException, *, give_up: bool) -> float | None:
        """Count a session's end; return the pause before the next one, None to give up."""
        self.last_error = clean_text(str(error)) or type(error).__name__
        self._metrics.sessions.labels(self.name, outcome).inc()
        self.host.log.warning("broker session over", outcome=outcome, error=self.last_error)
        if give_up:
            return None
        return self._backoff.next_s(error.retry_after_s if isinstance(error, Unavailable) else None)

    def _enter(self, state: StateName, message: str) -> None:
        if state == self.state and state != "starting":
            return
        self.state, self.since_s = state, time()
        self._metrics.broker_up.labels(self.name).set(state == "live")
        self.host.log.info("broker state", state=state, message=message)
        for listener in tuple(self.listeners):
            listener(self, state, message)


def _judge(group: BaseExceptionGroup[BaseException]) -> tuple[Outcome, BaseException]:
    """Return how a session ended that raised several errors, perhaps, and the one that says why.

    A rejection beside other errors is a rejection: the others are what it tore down, and trying again would not help.
    """
    errors = list(leaves(group))
    for error in errors:
        if isinstance(error, Rejected | ConfigError):
            return "rejected", error
    for error in errors:
        if not isinstance(error, Unavailable | OSError | trio.TooSlowError | trio.BrokenResourceError):
            return "crashed", error
    return "unavailable", errors[0]


class Supervisor:
    """All brokers, in config order: a registry to be asked each time, since brokers come and go while it runs."""

    def __init__(self, brokers: Iterable[SupervisedBroker] = ()) -> None:
        self._brokers: dict[str, SupervisedBroker] = {}
        self._followers: list[tuple[BrokerFollower, BrokerFollower]] = []
        self._nursery: trio.Nursery | None = None
        self._runs: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self.brokers: Mapping[str, SupervisedBroker] = MappingProxyType(self._brokers)
        """The brokers by name; a live view."""
        for broker in brokers:
            self.add(broker)

    def states(self) -> list[BrokerState]:
        """Return every broker's state, in config order."""
        return [broker.snapshot() for broker in self._brokers.values()]

    def follow(self, joined: BrokerFollower, left: BrokerFollower) -> None:
        """Call ``joined`` with each broker that there is and that comes, ``left`` with each that goes."""
        self._followers.append((joined, left))
        for broker in self._brokers.values():
            joined(broker)

    def add(self, broker: SupervisedBroker) -> None:
        """Take in a broker, behind the others, and run it if the others run. Raises ValueError if its name is taken."""
        if broker.name in self._brokers:
            raise ValueError(f'found "{broker.name}" again, expected a name of its own')
        self._brokers[broker.name] = broker
        for joined, _ in self._followers:
            joined(broker)
        if self._nursery is not None:
            self._start(broker, self._nursery)

    async def remove(self, name: str, reason: str) -> bool:
        """Stop a broker and forget it; its subscribers are told ``reason``, or get the next broker that has the feed.

        Returns False where its session does not end within :data:`STOP_TIMEOUT_S`: then it stays, as failed, for it
        may still publish.
        """
        broker = self._brokers[name]
        scope, ended = self._runs.get(name, (None, None))
        if scope is not None and ended is not None:
            scope.cancel()
            with trio.move_on_after(STOP_TIMEOUT_S):
                await ended.wait()
        broker.give_up(reason)
        if ended is not None and not ended.is_set():
            broker.host.log.error(
                "a broker does not stop: it stays until the server ends", waited_s=STOP_TIMEOUT_S
            )
            return False
        self._runs.pop(name, None)
        del self._brokers[name]
        for _, left in self._followers:
            left(broker)
        return True

    async def run(self) -> None:
        """Run all brokers, also those that come later, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for broker in self._brokers.values():
                self._start(broker, self._nursery)
            await trio.sleep_forever()

    def _start(self, broker: SupervisedBroker, nursery: trio.Nursery) -> None:
        scope, ended = self._runs[broker.name] = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._keep, broker, scope, ended)

    async def _keep(self, broker: SupervisedBroker, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await broker.run()
        finally:
            ended.set()
