"""A client of server-sent events: the session of a WebSocket client with one request, which is in its URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import time_ns

import trio

from ... import __version__
from ...kinds import BY_NAME
from ...model import Feed
from ...protocol import answers
from ...protocol.answers import Outcome
from ...protocol.event_ids import Positions, StreamKey
from ...protocol.requests import RequestError, RequestId, Subscribe
from ...protocol.server_frames import CloseCode
from ...protocol.since import Since, SinceSeq, SinceSeqs
from .clients import Clients
from .event_sink import EventSink
from .session import Session
from .sink import CLOSE_GRACE_S

__all__ = ["EventSession", "keep_event_session", "stream_keys"]

RETRY_MS = {CloseCode.RESTART: 1_000}
RETRY_LATER_MS = 5_000


class EventSession(Session):
    """See :class:`.session.Session`; its sink is an :class:`.event_sink.EventSink`."""

    results: Sequence[Outcome] = ()

    async def begin(self, request: Subscribe, sink: EventSink, epoch: str) -> None:
        """Subscribe. Raises RequestError if no part of the request can be served."""
        sink.write(answers.hello(self.wire, __version__, epoch, time_ns() // 1000))
        async with self._turn:
            await self._subscribe(request)
        if self._gone:
            raise RequestError(410, "the stream was closed before it began")
        if not self._held.topics and self.beats is None:
            worst = self.results[0]
            raise RequestError(worst.code or 408, worst.message or "nothing to subscribe to")
        # No other task has run since the topics went to the router, so the client continues from their present numbers.
        sink.positions = Positions(epoch, stream_keys(request), dict(self._positions(request.since)))

    async def _ack(self, request_id: RequestId, action: str, results: list[Outcome]) -> None:
        self.results = results
        await super()._ack(request_id, action, results)

    def _positions(self, since: Since | None) -> Iterator[tuple[StreamKey, tuple[str, int | None]]]:
        """Return where the client is in each topic; where its past cannot be read now, it stays where it was."""
        for topic in self._held.topics:
            if BY_NAME[topic.type].stored is None:
                continue
            replay = self._resuming.topics.get(topic)
            host = self._held.brokers[topic.broker].host
            if replay is not None:
                seq: int | None = replay.after[topic]
            elif isinstance(since, SinceSeq):
                seq = since.seq
            elif isinstance(since, SinceSeqs) and topic in since.seqs:
                seq = since.seqs[topic]
            else:
                seq = host.last_seq(Feed(*topic[1:]))
            yield (topic.symbol, topic.type), (topic.broker, seq)


def stream_keys(request: Subscribe) -> list[StreamKey]:
    """Return the topics that a request names, in its order, which is also the order of numbers in an event's id."""
    return [(symbol, kind) for symbol in request.symbols for kind in request.types]


async def keep_event_session(session: EventSession, sink: EventSink, clients: Clients) -> None:
    """Keep the client until it disconnects, which cancels this, or until it must be closed; then end its response."""
    try:
        with session.reading:
            await trio.sleep_forever()
        with trio.move_on_after(CLOSE_GRACE_S):
            await sink.drained()
        sink.end(RETRY_MS.get(session.close_code or 0, RETRY_LATER_MS))
    finally:
        sink.mute()
        clients.forget(session)
