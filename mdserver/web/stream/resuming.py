"""The replays of one client: the meaning of ``since`` for each topic, and the change to live records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from time import time_ns
from typing import Protocol

import structlog
import trio
from msgspec.structs import replace

from ...errors import StoreUnavailable
from ...kinds import BY_NAME
from ...model import US_PER_S, Topic
from ...protocol import answers
from ...protocol.answers import Outcome
from ...protocol.encoding import Encoding, Wire
from ...protocol.requests import RequestError, RequestId, Subscribe
from ...protocol.server_frames import CloseCode
from ...protocol.since import Since, SinceSeq, SinceTime
from ...stream.replay import Replay, Replays
from ...stream.stored_past import After, FromTime, Start
from .selection import topic_of
from .sink import BaseSink

__all__ = ["Client", "Resuming", "check_since"]

AT_ONCE = 4
"""Simultaneous replays of one client; further requests wait for their turn."""

MAX_AHEAD_S = 60
"""How far a client's clock may be ahead of the server's."""

_log = structlog.get_logger("mdserver.web")


class Client(Protocol):
    """The session, as its replays see it."""

    @property
    def sink(self) -> BaseSink:
        """The write side."""
        ...

    @property
    def wire(self) -> Wire:
        """The encoding of its messages."""
        ...

    def encoding_of(self, topic: Topic) -> Encoding | None:
        """Return the encoding of a topic; None if it is not the client's any more."""
        ...

    def complain(self, code: int, message: str, request_id: RequestId = None) -> None:
        """Send an error."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        ...

    def replay_ended(self, topics: Collection[Topic]) -> None:
        """Make topics live whose replay has ended."""
        ...


class Resuming:
    """The replays to one client. ``topics`` are not live for it until their replay has ended."""

    def __init__(
        self,
        client: Client,
        replays: Replays,
        epoch: str,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
    ) -> None:
        self.topics: dict[Topic, Replay] = {}
        self._client = client
        self._replays = replays
        self._epoch = epoch
        self._spawn = spawn
        self._turns: trio.CapacityLimiter | None = None  # made on demand: few clients ever request the past

    def drop(self, topic: Topic) -> None:
        """Stop the replay of a topic that was unsubscribed or is requested again."""
        replay = self.topics.pop(topic, None)
        if replay is not None:
            replay.after.pop(topic, None)

    async def begin(
        self, request: Subscribe, results: list[Outcome]
    ) -> tuple[list[Outcome], Callable[[], None]]:
        """Look up where the replay of each topic of a request begins.

        Returns the results for the answer, and a function that starts the replay. Call it once the answer is written
        and the topics are no longer live. If the past is unavailable, the client gets an error after its answer, and
        the topics stay live.
        """
        request_id, since = request.id, request.since
        if since is None:
            return results, lambda: None
        starts, why = _starts(since, results, self._epoch)
        try:
            begins = await self._replays.begins(starts) if starts else {}
        except StoreUnavailable as error:
            unavailable = partial(self._unavailable, request_id, str(error))
            if not self._replays.stores:  # so that no client waits for it
                results = [_never(one, str(error)) if topic_of(one) in starts else one for one in results]
            return [_told(one, None, why) for one in results], unavailable
        missing = {topic: begin.missing for topic, begin in begins.items()}
        told = [_told(one, missing, why) for one in results]
        # meanwhile the client may have gone, or lost topics
        encodings = {topic: found for topic in begins if (found := self._client.encoding_of(topic))}
        after = {topic: begins[topic].after for topic in encodings}
        for topic in after:
            self.drop(topic)
        if not after:
            return told, lambda: None
        replay = Replay(
            self._replays, self._client.sink, after, encodings, partial(self._on_live, request_id)
        )
        self.topics |= dict.fromkeys(after, replay)

        def start() -> None:
            self._spawn(partial(self._run, replay, request_id))

        return told, start

    def _unavailable(self, request_id: RequestId, why: str) -> None:
        self._client.complain(410, f"since: history is not available, live goes on: {why}", request_id)

    async def _run(self, replay: Replay, request_id: RequestId) -> None:
        if self._turns is None:
            self._turns = trio.CapacityLimiter(AT_ONCE)
        try:
            async with self._turns:
                await replay.run()
        except StoreUnavailable as error:
            self._let_go(replay)
            self._unavailable(request_id, f"the replay is incomplete: {error}")
        except Exception:  # noqa: BLE001 - a bug of the server: the client gets an error, others are unaffected
            _log.exception("a replay failed")
            self._client.complain(500, "internal error", request_id)
            self._client.close(CloseCode.INTERNAL, "internal error")

    def _on_live(self, request_id: RequestId, replay: Replay) -> None:
        wire, now_us = self._client.wire, time_ns() // 1000
        self._client.sink.write(answers.replay_complete(wire, request_id, replay.after, now_us))
        self._let_go(replay)

    def _let_go(self, replay: Replay) -> None:
        for topic in replay.after:
            del self.topics[topic]
        self._client.replay_ended(replay.after.keys())


def _starts(
    since: Since, results: Sequence[Outcome], epoch: str
) -> tuple[dict[Topic, Start], dict[Topic, str]]:
    """Return the requested start of each topic, and the reason for topics that cannot begin there."""
    starts: dict[Topic, Start] = {}
    why: dict[Topic, str] = {}
    for outcome in results:
        topic = topic_of(outcome)
        if outcome.status not in ("active", "pending"):
            continue
        if BY_NAME[topic.type].stored is None:
            why[topic] = f"records of the type {topic.type} are not stored: live only"
        elif isinstance(since, SinceTime):
            starts[topic] = FromTime(since.time_us)
        elif isinstance(since, SinceSeq):
            starts[topic] = After(since.seq)
        elif topic in since.seqs:
            starts[topic] = After(since.seqs[topic])
            if since.epoch != epoch:
                starts[topic] = After(0)
                why[topic] = f"another epoch: numbers began again with {epoch}; from the oldest record"
    return starts, why


def _told(outcome: Outcome, missing: Mapping[Topic, str | None] | None, why: Mapping[Topic, str]) -> Outcome:
    """Return a result with the outcome of its ``since``; ``missing`` None: the past is unavailable."""
    topic = topic_of(outcome)
    if topic in why and outcome.recovered is None:
        return replace(outcome, recovered=False, message=why[topic])
    if missing is None:
        return outcome
    if topic not in missing:
        return outcome
    if missing[topic] is None:
        return replace(outcome, recovered=True)
    return replace(outcome, recovered=False, message=missing[topic])


def _never(outcome: Outcome, why: str) -> Outcome:
    """Return a result whose ``since`` this server can never serve."""
    return replace(outcome, recovered=False, code=410, message=why)


def check_since(request: Subscribe, now_s: float, brokers: int, newest_us: Callable[[], int]) -> None:
    """Raise :class:`RequestError` for a time in the future, and for a number that several topics may have.

    No time up to that of the newest record is in the future, whatever the clock says: it may have been set back.
    """
    since = request.since
    if (
        isinstance(since, SinceTime)
        and since.time_us > (now_s + MAX_AHEAD_S) * US_PER_S
        and since.time_us > newest_us()
    ):
        since_s = since.time_us / US_PER_S
        raise RequestError(
            400, f"since: {since_s:.17g} is in the future; the server's clock is at {now_s:.0f}"
        )
    one = len(request.symbols) == len(request.types) == 1 and (request.broker is not None or brokers == 1)
    if isinstance(since, SinceSeq) and not one:
        raise RequestError(
            400,
            'since: {"seq": n} needs exactly one symbol and type of one broker; for several topics give '
            '{"epoch": "…", "seqs": [[broker, symbol, type, seq], …]}',
        )
