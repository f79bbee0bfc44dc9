"""The registry of all brokers. Look a broker up each time: brokers come and go while the server runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import trio

from ..redact import hidden
from .broker_state import BrokerState
from .supervised_broker import STOP_TIMEOUT_S, SupervisedBroker

__all__ = ["BrokerFollower", "Supervisor"]

BrokerFollower: TypeAlias = Callable[[SupervisedBroker], None]


class Supervisor:
    """The brokers in config order. Each runs in a task of its own, so none waits for another."""

    def __init__(self, brokers: Iterable[SupervisedBroker] = ()) -> None:
        self._brokers: dict[str, SupervisedBroker] = {}
        self._followers: list[tuple[BrokerFollower, BrokerFollower]] = []
        self._nursery: trio.Nursery | None = None
        self.aside = 0
        """The number of brokers that run for one client each."""
        self._runs: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self.brokers: Mapping[str, SupervisedBroker] = MappingProxyType(self._brokers)
        """The brokers by name; a live view."""
        for broker in brokers:
            self.add(broker)

    def states(self) -> list[BrokerState]:
        """Return every broker's state, in config order."""
        return [broker.snapshot() for broker in self._brokers.values()]

    def follow(self, joined: BrokerFollower, left: BrokerFollower) -> None:
        """Call ``joined`` with each present and future broker, and ``left`` with each removed one."""
        self._followers.append((joined, left))
        for broker in self._brokers.values():
            joined(broker)

    def add(self, broker: SupervisedBroker) -> None:
        """Add a broker after the others, and run it if they run. Raises ValueError if the name is in use."""
        if broker.name in self._brokers:
            raise ValueError(f'found a second broker "{broker.name}", expected a unique name')
        self._brokers[broker.name] = broker
        for joined, _ in self._followers:
            joined(broker)
        if self._nursery is not None:
            self._start(broker, self._nursery)

    def arrange(self, names: Sequence[str]) -> None:
        """Put the brokers into this order of preference; brokers that are not named are last."""
        rank = {name: place for place, name in enumerate(names)}
        ordered = sorted(self._brokers.values(), key=lambda broker: rank.get(broker.name, len(rank)))
        self._brokers.clear()
        self._brokers.update((broker.name, broker) for broker in ordered)

    async def remove(self, name: str, reason: str) -> bool:
        """Stop and remove a broker; its subscribers get ``reason``, or the next broker that has the feed.

        Returns False if its session does not end within :data:`STOP_TIMEOUT_S`. It then stays in the state failed,
        because it may still publish.
        """
        broker = self._brokers[name]
        broker.why_stopped = reason
        scope, ended = self._runs.get(name, (None, None))
        if scope is not None and ended is not None:
            scope.cancel()
            with trio.move_on_after(STOP_TIMEOUT_S):
                await ended.wait()
        if ended is not None and not ended.is_set():
            broker.give_up(reason)
            broker.host.log.error(
                "the broker does not stop in time: it stays, as failed, until the server ends",
                waited_s=STOP_TIMEOUT_S,
            )
            return False
        broker.leave()
        self._runs.pop(name, None)
        del self._brokers[name]
        for _, left in self._followers:
            left(broker)
        return True

    def run_aside(self, broker: SupervisedBroker, secrets: Collection[str]) -> Callable[[], None]:
        """Run a client's own broker, which is not listed; return a function that ends it.

        ``secrets`` are hidden in logs until then. Raises RuntimeError if the listed brokers do not run.
        """
        if self._nursery is None:
            raise RuntimeError("the brokers do not run")
        scope = trio.CancelScope()
        self._nursery.start_soon(self._keep_aside, broker, scope, secrets)
        return scope.cancel

    async def _keep_aside(
        self, broker: SupervisedBroker, scope: trio.CancelScope, secrets: Collection[str]
    ) -> None:
        self.aside += 1
        try:
            with hidden(secrets), scope:
                await broker.run()
        finally:
            self.aside -= 1

    async def run(self) -> None:
        """Run all brokers, also those added later, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for broker in self._brokers.values():
                self._start(broker, self._nursery)
            await trio.sleep_forever()

    def _start(self, broker: SupervisedBroker, nursery: trio.Nursery) -> None:
        scope, ended = self._runs[broker.name] = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._run_broker, broker, scope, ended)

    async def _run_broker(self, broker: SupervisedBroker, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await broker.run()
        finally:
            ended.set()
