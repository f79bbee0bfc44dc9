"""The broker sessions that one client opened with credentials of its own: ``authenticate``."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Protocol, cast

from ...feed.broker_state import State
from ...feed.demand import FeedChange
from ...feed.supervised_broker import SupervisedBroker
from ...model import Topic
from ...protocol import answers
from ...protocol.encoding import Wire
from ...protocol.requests import Authenticate, RequestError, RequestId, Subscribe
from ...protocol.server_frames import CloseCode
from ...protocol.terms import Terms
from ...stream.audience import Array
from ...stream.own_session import OpenOwn, OwnSession
from ...stream.router import Router
from .sink import BaseSink
from .subscribers import Subscribers

__all__ = ["OwnBrokers"]


class _Client(Protocol):
    @property
    def sink(self) -> BaseSink: ...

    @property
    def wire(self) -> Wire: ...

    def tell(self, frames: bytes) -> None: ...

    def feeds_changed(self, broker: str, changes: Sequence[FeedChange]) -> None: ...

    def complain(self, code: int, message: str, request_id: RequestId = None) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def authenticated(self, request_id: RequestId) -> None: ...


class OwnBrokers:
    """The sessions of one client by the broker's name; ``brokers`` replace the shared brokers of these names."""

    def __init__(self, client: _Client, open_own: OpenOwn | None) -> None:
        self.brokers: dict[str, SupervisedBroker] = {}
        self._client = client
        self._open = open_own
        self._sessions: dict[str, OwnSession] = {}
        self._holders: dict[str, Subscribers] = {}

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def begin(self, request: Authenticate, held: Collection[Topic]) -> None:
        """Open a session; its result is sent to the client later. Raises RequestError."""
        name = request.broker
        if self._open is None:
            raise RequestError(409, f"not permitted: {name} takes no credentials of clients")
        if any(topic.broker == name for topic in held):
            raise RequestError(400, f"broker: first unsubscribe all topics of {name}")
        session = self._open(name, dict(request.credentials))
        if name in self._sessions:
            self._end_one(self._sessions[name])
        broker = session.broker
        broker.listeners.append(partial(self._on_state, request.id))
        holders = Subscribers()
        holders.watch(broker)
        session.start()
        self._sessions[name], self._holders[name], self.brokers[name] = session, holders, broker

    def before(self, brokers: Mapping[str, SupervisedBroker]) -> Mapping[str, SupervisedBroker]:
        """Return a live view of the shared brokers, in which the client's own replace those of the same names."""
        return ChainMap(self.brokers, cast("MutableMapping[str, SupervisedBroker]", brokers))

    def end(self) -> None:
        """End all sessions after the client has disconnected. Its topics can still be released."""
        for session in self._sessions.values():
            self._end_one(session)

    def _end_one(self, session: OwnSession) -> None:
        session.broker.listeners.clear()
        session.router.set_topics(self._client.sink, {})
        session.end()

    def holders(self, broker: str, others: Subscribers) -> Subscribers:
        """Return the subscribers of a broker's feeds: this client alone, or ``others``."""
        return self._holders.get(broker, others)

    def set_topics(self, router: Router, topics: Mapping[Topic, Terms], array: Array) -> None:
        """Route the client's topics: those of its own brokers from their routers, all others from ``router``."""
        sink = self._client.sink
        shared = {topic: terms for topic, terms in topics.items() if self.is_shared(topic)}
        router.set_topics(sink, shared if self._sessions else topics, array)
        for name, session in self._sessions.items():
            own = {topic: terms for topic, terms in topics.items() if topic.broker == name}
            session.router.set_topics(sink, own, array)

    def is_shared(self, topic: Topic) -> bool:
        """Return whether a topic is from a shared broker."""
        return topic.broker not in self._sessions

    def check(self, request: Subscribe) -> None:
        """Raise RequestError if the request needs stored records of an own broker."""
        if self._sessions and request.broker in (None, *self._sessions):
            needs = [
                *(["since"] if request.since is not None else []),
                *(["snapshot"] if request.snapshot else []),
                *(["candle"] if "candle" in request.types else []),
            ]
            if needs:
                own = ", ".join(self._sessions)
                raise RequestError(
                    410,
                    f"{needs[0]}: records of your own session with {own} are not stored; name another broker",
                )

    def _on_state(self, request_id: RequestId, broker: SupervisedBroker, state: State, message: str) -> None:
        client = self._client
        client.tell(answers.status(client.wire, broker.name, state, message))
        if state is State.LIVE:
            client.authenticated(request_id)
        elif state is State.FAILED:
            client.complain(402, f"authentication failed: {broker.name}: {broker.last_error}", request_id)
            client.close(CloseCode.POLICY, f"{broker.name}: authentication failed")
