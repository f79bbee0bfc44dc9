"""All connected clients: their liveness, messages to many of them, and their end."""

from __future__ import annotations

from collections import deque
from functools import cache, partial

import trio

from ...feed.broker_state import State
from ...feed.supervised_broker import SupervisedBroker
from ...metrics import Metrics
from ...protocol import answers
from ...protocol.server_frames import CloseCode
from .heartbeats import Heartbeats
from .session import Session
from .subscribers import Subscribers

__all__ = ["PING_INTERVAL_S", "PONG_TIMEOUT_S", "Clients"]

PING_INTERVAL_S = 20.0
PONG_TIMEOUT_S = 20.0
"""A client from which nothing is received for this long after a ping is closed."""
_CHECK_S = 1.0


class Clients:
    """The sessions of this server; at most ``max_clients`` of them."""

    def __init__(self, max_clients: int, metrics: Metrics) -> None:
        self.sessions: dict[Session, None] = {}
        self.subscribers = Subscribers()
        self.heartbeats: Heartbeats | None = None
        self.closing = False
        self._emptied = trio.Event()
        self._leaving: deque[Session] = deque()
        self._left = trio.Event()
        self._max_clients = max_clients
        self.metrics = metrics

    def admit(self, session: Session) -> bool:
        """Add a client; return False if there are too many."""
        if len(self.sessions) >= self._max_clients:
            return False
        self.sessions[session] = None
        self.metrics.connections.inc()
        self.metrics.clients.set(len(self.sessions))
        if self.closing:
            session.close(CloseCode.RESTART, "server shutdown")
        return True

    def forget(self, session: Session) -> None:
        """Remove a disconnected client and release its topics; if there are many, :meth:`keep` releases the rest."""
        session.leave()
        if session.release_some():
            self._leaving.append(session)
            self._left.set()
        if session in self.sessions:
            del self.sessions[session]
            self.metrics.clients.set(len(self.sessions))
            self.metrics.disconnects.labels(str(session.close_code or 1000)).inc()
            if not self.sessions:
                self._emptied.set()
                self._emptied = trio.Event()

    def on_broker_state(self, broker: SupervisedBroker, state: State, message: str) -> None:
        """Send a change of state to the broker's subscribers."""
        frame = cache(partial(answers.status, broker=broker.name, state=state, message=message))
        for subscriber in self.subscribers.of_broker(broker.name):
            subscriber.tell(frame(subscriber.wire))

    def on_candles_state(self, state: str, message: str) -> None:
        """Send to all clients with candles that these wait, or go on."""
        frame = cache(partial(answers.notice, state=state, message=message))
        for session in tuple(self.sessions):
            if session.holds_candles:
                session.tell(frame(session.wire))

    def close_all(self) -> None:
        """Close all present and future clients with 1012."""
        self.closing = True
        for session in tuple(self.sessions):
            session.close(CloseCode.RESTART, "server shutdown")

    def renew_grants(self) -> None:
        """Look up every client's rights again, after a change of the keys."""
        for session in tuple(self.sessions):
            session.renew_grant()

    async def gone(self) -> None:
        """Wait until no client is left."""
        while self.sessions:
            await self._emptied.wait()

    async def _let_go_forever(self) -> None:
        while True:
            while self._leaving:
                if not self._leaving[0].release_some():
                    self._leaving.popleft()
                await trio.lowlevel.checkpoint()
            self._left = trio.Event()
            await self._left.wait()

    async def keep(self) -> None:
        """Ping clients and close those that do not answer. Runs until cancelled.

        There is one task for all clients, because a task per client would cost more memory than its subscriptions.
        """
        while True:
            with trio.move_on_after(_CHECK_S):
                await self._let_go_forever()
            if self.heartbeats is not None:
                self.heartbeats.beat(self.sessions)
            now = trio.current_time()
            for session in tuple(self.sessions):
                _check(session, now)


def _check(session: Session, now: float) -> None:
    heard = session.sink.last_heard_s()
    if heard is None:
        return
    if session.pinged_s is not None:
        if heard >= session.pinged_s:
            session.pinged_s = None
        elif now - session.pinged_s > PONG_TIMEOUT_S:
            session.close(CloseCode.POLICY, f"no answer to a ping within {PONG_TIMEOUT_S:.0f} s")
        return
    if now - max(heard, session.last_ping_s) >= PING_INTERVAL_S:
        session.last_ping_s = session.pinged_s = now
        session.sink.ping(b"mdserver")
