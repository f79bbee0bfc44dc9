"""Keeps one broker running: sessions, backoff, watchdog, state.

One broker's failure never affects another: the errors of a session are handled here. Unavailable and Rejected have
their meaning; any other error is a bug of the plugin, which is logged with its traceback and tried again a bounded
number of times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias

import trio

from ..backoff import Backoff
from ..errors import Silent, Unavailable
from ..metrics import Metrics
from ..plugin import BookRenewal, Broker, BrokerHistory, BrokerPlugin
from .broker_host import Host, clean_text
from .broker_state import BrokerState, Outcome, State, StateHistory
from .demand import BrokerDemand, FeedChange
from .session_end import judge
from .silence import Silence

__all__ = ["StateListener", "SupervisedBroker"]

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
STABLE_S = 60.0
"""A session that has been live this long resets the backoff."""
MAX_CRASHES = 5
CRASHES_WITHIN_S = 600.0
"""A broker fails for good after this many unknown exceptions within this time."""
START_TIMEOUT_S = 60.0
"""A session must be connected within this time."""
STOP_TIMEOUT_S = 3.0
"""The time that a cancelled session has for its cleanup."""

StateListener: TypeAlias = Callable[["SupervisedBroker", State, str], None]
"""Called with the broker, its new state, and a text for operators."""


class SupervisedBroker:
    """One broker: its plugin, its demand, its host and its state.

    ``make`` returns the plugin's object for one session. The demand and the host, and so the subscriptions, outlive
    sessions and changes of settings. ``client_credentials``: clients may open sessions with credentials of their own.
    """

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
        self.attempt = 0
        self.why_stopped = "the server stops"
        self.listeners: list[StateListener] = []
        self._history = StateHistory(host.name, metrics)
        self._make = make
        self._broker: Broker | None = None
        self._crashed_at: deque[float] = deque(maxlen=MAX_CRASHES)
        self._backoff = backoff or Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        self._silence = None if plugin.silence_s is None else Silence(plugin.silence_s, host)
        self._began = -inf
        self._turn: trio.CancelScope | None = None
        self._turn_over = trio.Event()
        self._why_restarted = ""
        host.renew_books = self._renew_books
        demand.watch(self._feeds_changed)

    @property
    def state(self) -> State:
        """The present state."""
        return self._history.state

    @property
    def last_error(self) -> str | None:
        """Why the last session ended, None if none has."""
        return self._history.last_error

    def snapshot(self) -> BrokerState:
        """Return the broker as operators see it now."""
        history = self._history
        return BrokerState(
            self.name,
            self.plugin.name,
            history.state,
            history.since_s,
            self.attempt,
            history.last_error,
            self.host.last_event_s,
            len(self.demand.current()),
            self.demand.count(),
            {f"{feed.symbol} {feed.type}": why for feed, why in self.demand.pinned_refused().items()},
            history.errors,
            history.changes,
        )

    def history(self) -> BrokerHistory | None:
        """Return the source of the venue's past records, or None if the plugin has none.

        It is the running session's object if there is one, otherwise a new one. Raises the errors of the plugin's
        factory.
        """
        broker = self._broker or self._make()
        return broker if isinstance(broker, BrokerHistory) else None

    async def run(self) -> None:
        """Run sessions until cancelled. A broker that has failed for good waits for its restart."""
        try:
            while True:
                await self._keep_distance()
                self._turn, self._turn_over = trio.CancelScope(), trio.Event()
                try:
                    with self._turn:
                        await self._take_turn()
                    if self._turn.cancelled_caught:
                        self._enter(State.STARTING, f"restarts: {self._why_restarted}")
                finally:
                    self._turn_over.set()
        except trio.Cancelled:
            self._stop()
            raise

    async def restart(self, why: str) -> bool:
        """End the session, the pause or the failure, and start a new session; at least the first pause is kept.

        Returns False if the session does not end within :data:`STOP_TIMEOUT_S`; the new one then starts once it has.
        """
        self._crashed_at.clear()
        self._why_restarted = why
        if self._turn is None:
            return True
        over = self._turn_over
        self._turn.cancel()
        with trio.move_on_after(STOP_TIMEOUT_S):
            await over.wait()
            return True
        self.host.log.error(
            "the broker does not stop in time: it is restarted once it has stopped", waited_s=STOP_TIMEOUT_S
        )
        return False

    def reconfigure(self, make: Callable[[], Broker], backoff: Backoff) -> None:
        """Use other settings from the next session on."""
        self._make = make
        self._broker = None
        self._backoff = backoff

    def give_up(self, reason: str) -> None:
        """Enter the state failed. Waiting subscribers get a refusal, or the next broker that has the feed."""
        self._enter(State.FAILED, reason)
        self.demand.refuse(self.demand.current(), f"{self.name} has failed: {reason}")

    def leave(self) -> None:
        """Stop for good. Waiting subscribers get a refusal, or the next broker that has the feed."""
        self._stop()
        self.demand.refuse(self.demand.current(), f"{self.name} was stopped: {self.why_stopped}")

    def _stop(self) -> None:
        if self.state is not State.FAILED:
            self._enter(State.STOPPED, self.why_stopped)

    async def _keep_distance(self) -> None:
        """Wait until the first pause has passed since the last start, whoever requested this one."""
        since_s = trio.current_time() - self._began
        if since_s < self._backoff.first_s:
            await trio.sleep(self._backoff.first_s - since_s)
        self._began = trio.current_time()

    async def _take_turn(self) -> None:
        """Run one session, then wait for the pause that its end requires."""
        wait_s = await self._one_session()
        await trio.lowlevel.checkpoint()  # a shielded session may end only after its cancellation
        if wait_s is None:
            self.host.log.error("broker failed for good: it is not connected again", error=self.last_error)
            self.give_up(self.last_error or "")
            await trio.sleep_forever()
            return
        self.host.log.info("broker reconnects after a pause", seconds=round(wait_s, 1), attempt=self.attempt)
        self._enter(State.BACKOFF, f"next attempt in {wait_s:.0f} s: {self.last_error}")
        await trio.sleep(wait_s)

    async def _one_session(self) -> float | None:
        """Run one session; return the pause before the next in seconds, or None if there must be none."""
        self.attempt += 1
        self.demand.begin_session()
        self._enter(State.STARTING, "connecting")
        live_since: float | None = None
        outcome: Outcome = "unavailable"
        error: BaseException = Unavailable("")
        cause = "restart"  # if the session is cancelled

        def went_live() -> None:
            nonlocal live_since
            live_since = trio.current_time()
            self._enter(State.LIVE, "connected")
            self._weigh_refusals()

        try:
            await self._session(went_live)
        except* (Exception, SystemExit) as group:  # a plugin's own exit ends its session, not the server
            outcome, error = judge(group)
            cause = "silence" if isinstance(error, Silent) else "disconnected"
            if outcome == "crashed":
                self.host.log.exception("broker crashed", exc_info=group)
                self._crashed_at.append(trio.current_time())
        finally:
            self.demand.end_session()
            self.host.gap(cause)  # also if it never became live: it may have published before
            self.host.announce_holes()
        if live_since is not None and trio.current_time() - live_since >= STABLE_S:
            self.attempt = 0
            self._backoff.reset()
        return self._note(outcome, error)

    async def _session(self, went_live: Callable[[], None]) -> None:
        broker = self._broker = self._make()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(START_TIMEOUT_S) as deadline:
                await nursery.start(self._pump, broker)
            if deadline.cancelled_caught:
                raise Unavailable(
                    f"not connected within {START_TIMEOUT_S:.0f} s: the plugin's run() has not called "
                    "task_status.started()"
                )
            went_live()
            if self._silence is not None:
                await self._silence.watch()

    async def _pump(self, broker: Broker, *, task_status: trio.TaskStatus[None]) -> None:
        await broker.run(self.host, task_status=task_status)
        raise Unavailable("the venue ended the session")

    def _note(self, outcome: Outcome, error: BaseException) -> float | None:
        """Count a session's end; return the pause before the next one, or None if there must be none."""
        text = clean_text(str(error)) or type(error).__name__
        self._history.note_error(outcome, text)
        self.host.log.warning("broker session ended", outcome=outcome, error=text)
        if outcome == "rejected" or self._crashes_too_often():
            return None
        return self._backoff.next_s(error.retry_after_s if isinstance(error, Unavailable) else None)

    def _crashes_too_often(self) -> bool:
        crashes = self._crashed_at
        return len(crashes) == MAX_CRASHES and trio.current_time() - crashes[0] <= CRASHES_WITHIN_S

    def _feeds_changed(self, changes: Sequence[FeedChange]) -> None:
        if self.state.is_up and any(self.demand.is_pinned(change.feed) for change in changes):
            self._weigh_refusals()

    def _renew_books(self, symbols: Sequence[str]) -> None:
        broker = self._broker
        if not isinstance(broker, BookRenewal):
            self.host.log.warning(
                "the plugin cannot have an order book sent anew: changes are dropped until the venue sends a snapshot",
                symbols=symbols,
            )
            return
        self.host.log.info("changes of an order book were lost here: it is asked for anew", symbols=symbols)
        try:
            broker.renew_books(symbols)
        except Exception:
            self.host.log.exception("a plugin failed to have an order book sent anew", symbols=symbols)

    def _weigh_refusals(self) -> None:
        """Enter degraded if the venue refuses feeds of the config, otherwise live; clients' feeds do not count."""
        refused = self.demand.pinned_refused()
        if refused:
            feed, why = next(iter(refused.items()))
            more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
            self._enter(State.DEGRADED, f"refused: {feed.symbol} {feed.type} ({why}){more}")
        elif self.state is State.DEGRADED:
            self._enter(State.LIVE, "no feed of the config is refused any more")

    def _enter(self, state: State, message: str) -> None:
        if not self._history.enter(state, message):
            return
        self.host.log.info("broker state", state=str(state), message=message)
        for listener in tuple(self.listeners):
            listener(self, state, message)
