"""One client: its requests, its topics, and the messages to it. No I/O except the sink's."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from math import inf
from time import time, time_ns

import trio

from ...feed.demand import FeedChange
from ...feed.supervised_broker import SupervisedBroker
from ...metrics import Metrics
from ...model import Topic
from ...protocol import answers
from ...protocol.answers import Outcome, Subscription
from ...protocol.encoding import PLAIN_WIRE, Encoding, Wire
from ...protocol.requests import (
    EVERY,
    Auth,
    Authenticate,
    Fault,
    ListSubscriptions,
    Ping,
    RequestError,
    RequestId,
    Subscribe,
    Unsubscribe,
    parse_request,
)
from ...protocol.server_frames import CloseCode
from ...stream.audience import Array
from ...stream.live_candles import LiveCandles
from ...stream.own_session import OpenOwn
from ...stream.replay import Replays
from ...stream.router import Router
from .candle_topics import CandleTopics
from .first_frames import forming_frames, hole_frames, last_frames
from .gate import AUTH_WITHIN_S, Gate
from .heartbeats import HEARTBEAT
from .holdings import Holdings
from .own_brokers import OwnBrokers
from .resuming import Resuming, check_since
from .selection import depth_of, feed_of, no_broker, outcome_of, selects, terms_of, topic_of, wanted
from .sink import BaseSink
from .subscribers import Subscribers

__all__ = ["Session"]

MAX_BAD_IN_A_ROW = 20
_WEARING = (400, 401, 429)
"""Error codes that end the connection if there are too many in a row."""
SLICE = 500
"""Subscriptions that are processed before other tasks run: a few milliseconds."""
ROUTED_AT_ONCE = 2_000
"""New subscriptions that go to the router before other tasks run: some 20 ms beside 20,000 others."""


class Session:
    """A connected client.

    ``reading`` is the scope in which its requests are read; it is cancelled once the close code and reason are set, and
    the endpoint closes the connection then.
    ``request_id`` is the id of the current request, which every error of it carries. ``wire``: the encoding of messages
    to the client; ``array`` joins several records into one frame, None: each record has its own.
    """

    def __init__(
        self,
        sink: BaseSink,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        *,
        brokers: Mapping[str, SupervisedBroker],
        router: Router,
        replays: Replays,
        epoch: str,
        holders: Subscribers,
        metrics: Metrics,
        max_symbols: int,
        candles: LiveCandles | None = None,
        open_own: OpenOwn | None = None,
        gate: Gate,
        wire: Wire = PLAIN_WIRE,
        array: Array = None,
    ) -> None:
        self.sink = sink
        self.wire = wire
        self._array = array
        self.gate = gate
        self.close_code: int | None = None
        self.close_reason = ""
        self.reading = trio.CancelScope()
        self.last_ping_s = trio.current_time()
        self.pinged_s: float | None = None
        self._all_brokers = brokers
        self._own = OwnBrokers(self, open_own)
        self._router = router
        self._metrics = metrics
        self._max_symbols = max_symbols
        self._candles = CandleTopics(candles)
        self._held = Holdings(self, brokers, self._own, self._candles, holders)
        self.beats: int | None = None
        """The number of heartbeats sent to the client; None: it wants none."""
        self._bad_in_a_row = 0
        self._spawn = spawn
        self._resuming = Resuming(self, replays, epoch, spawn)
        self._turn = trio.Lock()
        self._deferred: deque[tuple[str, FeedChange]] = deque()
        self._gone = False
        self.request_id: RequestId = None

    async def handle(self, raw: str | bytes) -> None:
        """Handle one frame of the client; a long request lets other tasks run in between."""
        async with self._turn:
            await self._act_on(raw)
        if self._deferred:
            await self._settle()

    async def _act_on(self, raw: str | bytes) -> None:
        try:
            self.request_id = None
            request = parse_request(raw, self.wire.format)
            self.request_id = request.id
            self.gate.admit(request)
            await _HANDLERS[type(request)](self, request)
        except RequestError as error:
            if error.request_id is None:
                error.request_id = self.request_id
            self.complain(error.code, error.message, error.request_id)
            self._bad_in_a_row += error.code in _WEARING
            if self._bad_in_a_row >= MAX_BAD_IN_A_ROW:
                self.close(CloseCode.POLICY, f"{MAX_BAD_IN_A_ROW} bad requests in a row")
        else:
            self._bad_in_a_row = 0

    def complain(self, code: int, message: str, request_id: RequestId = None) -> None:
        """Send an error."""
        self._metrics.client_errors.labels(str(code)).inc()
        self.sink.write(answers.error(self.wire, request_id, code, message))

    def close(self, code: int, reason: str) -> None:
        """Close the connection; only the first call counts."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self.reading.cancel()

    def overflow(self) -> None:
        """Send an error and close, because the client's buffer is full of records that must not be dropped."""
        self._metrics.client_errors.labels("407").inc()
        self.sink.write_last(answers.error(self.wire, None, 407, "slow client: its buffer is full"))
        self.close(CloseCode.TRY_LATER, "slow client")

    def leave(self) -> None:
        """End the session; :meth:`release_some` then releases the client's topics."""
        self._gone = True
        self.gate.leave()
        self._deferred.clear()
        self._router.set_topics(self.sink, {})
        self._own.end()

    def release_some(self, most: int = SLICE) -> bool:
        """Release some of the client's topics; return False once none is left."""
        for topic in tuple(islice(self._held.topics, most)):
            self._let_go(topic)
        return bool(self._held.topics)

    def tell(self, frames: bytes) -> None:
        """Send the client whole frames."""
        self.sink.write(frames)

    def mine(self, seqs: Mapping[Topic, int]) -> Mapping[Topic, int]:
        """Return, from the numbers of all topics, those of the client's topics."""
        replayed = self._resuming.topics
        return {topic: seq for topic, seq in self._held.mine(seqs).items() if topic not in replayed}

    def variant_of(self, topic: Topic) -> str | int | None:
        """Return the depth or interval of one of the client's topics, as the client names it."""
        terms = self._held.terms_of(topic)
        return topic.variant if terms is None or topic.type == "candle" else depth_of(topic, terms)

    def encoding_of(self, topic: Topic) -> Encoding | None:
        """Return the encoding of a topic; None if it is not the client's any more."""
        held = self._held.topics.get(topic)
        return None if held is None else held.terms.encoding

    @property
    def holds_candles(self) -> bool:
        """Whether the client has subscribed to candles made by the server."""
        return bool(self._candles)

    # -- requests ----------------------------------------------------------------------------------

    async def _subscribe(self, request: Subscribe) -> None:
        self._check_broker(request.broker)
        self.gate.permit("stream")
        if request.since is not None:
            self.gate.permit("history")
        check_since(request, time(), len(self._held.brokers), self._router.newest_us)
        self._check_room(request)
        self._own.check(request)
        results: list[Outcome] = []
        for broker, symbol, kind, fault in wanted(request):
            results.append(self._subscribe_one(request, broker, symbol, kind, fault))
            await _let_others_run(len(results))
        results, begin = await self._resuming.begin(request, results)
        if HEARTBEAT.type in request.types:
            self.beats = self.beats or 0
            results.append(Outcome(*HEARTBEAT[:3], "active"))
        served = [topic_of(one) for one in results if one.status in ("active", "pending")]
        topics = [topic for topic in served if topic in self._held.topics]
        if request.snapshot:
            await self._candles.wait_read(topics)
            again = [topic for topic in topics if topic not in self._held.fresh]
            self._tell_last(again)
        while len(self._held.fresh) > ROUTED_AT_ONCE:
            self._route(list(islice(self._held.fresh, ROUTED_AT_ONCE)), snapshot=request.snapshot)
            await trio.lowlevel.checkpoint()
        self._update_router(snapshot=request.snapshot)
        await self._ack(request.id, "subscribe", results)
        live = [topic for topic in topics if topic not in self._resuming.topics]
        for start in range(0, len(live), ROUTED_AT_ONCE):
            if start:
                await trio.lowlevel.checkpoint()
            piece = live[start : start + ROUTED_AT_ONCE]
            self.sink.write(hole_frames(piece, self._held, self._held.brokers))
        first = forming_frames(self._candles, self._held)
        self.sink.write(b"" if request.snapshot else first)  # a snapshot has them already
        begin()

    def replay_ended(self, topics: Collection[Topic]) -> None:
        """Make topics live whose replay has ended, and send the gaps that they are in now."""
        if not self._gone:
            self._route((), snapshot=False)  # what is new to the client is routed by its own request
            self.sink.write(hole_frames(topics, self._held, self._held.brokers))

    def _check_room(self, request: Subscribe) -> None:
        """Refuse a request beyond the limit of symbols; symbols that cannot be served do not count but are answered."""
        asked = {symbol: fault for _, symbol, _, fault in wanted(request)}
        served = {symbol for symbol, fault in asked.items() if fault is None}
        most = self.gate.most_symbols(self._max_symbols)
        if len(asked) > most or len(self._held.symbols() | served) > most:
            raise RequestError(405, f"too many symbols: {most} allowed per client")

    def _subscribe_one(
        self, request: Subscribe, name: str | None, symbol: str, kind: str, fault: Fault | None
    ) -> Outcome:
        if fault is not None:
            return self._faulty(name, symbol, kind, fault)
        feed = feed_of(request, symbol, kind)
        candidates = list(self._held.candidates(feed, name))
        named = None if symbol == EVERY else symbol
        seen = [broker for broker in candidates if self.gate.may_see(broker.name, named)]
        if not seen and not self.gate.may_see(name, named):
            forbidden = Fault(409, f"this key may not see {symbol} of {name or 'any broker'}")
            return self._faulty(name, symbol, kind, forbidden)
        candidates = seen
        if not candidates:
            self._metrics.client_errors.labels("408").inc()
            return no_broker(feed, name, self.gate.seen(self._held.brokers))
        if kind == "candle" and (why := self._candles.refusal(candidates[0].plugin)):
            return self._faulty(name, symbol, kind, Fault(410, why))
        held = [broker for broker in candidates if Topic(broker.name, *feed) in self._held.topics]
        terms = terms_of(request, kind, self.wire, self.gate.symbols if symbol == EVERY else None)
        return self._held.take(request.id, feed, held or candidates, terms)

    def _faulty(self, broker: str | None, symbol: str, kind: str, fault: Fault) -> Outcome:
        self._metrics.client_errors.labels(str(fault.code)).inc()
        return Outcome(broker, symbol, kind, "error", *fault)

    def feeds_changed(self, broker: str, changes: Sequence[FeedChange]) -> None:
        """Send the client the venue's answers to its feeds: one message for each request that waited for them.

        During a request, or if there are many, they are sent a little later, by a task of their own.
        """
        if self._gone:
            return
        if not self._turn.locked() and not self._deferred and len(changes) + len(self._held.topics) <= SLICE:
            answers_: dict[RequestId, list[Outcome]] = {}
            for change in changes:
                self._apply(broker, change, answers_)
            if any(change.status == "refused" for change in changes):
                self._update_router()
            for request_id, outcomes in answers_.items():
                self.sink.write(answers.ack(self.wire, request_id, "subscribe", outcomes, self._listed()))
            return
        idle = not self._deferred and not self._turn.locked()
        self._deferred.extend((broker, change) for change in changes)
        if idle:
            self._spawn(self._settle)

    async def _settle(self) -> None:
        """Send the client the deferred answers."""
        async with self._turn:
            answers_: dict[RequestId, list[Outcome]] = {}
            refused, done = False, 0
            while self._deferred:
                broker, change = self._deferred.popleft()
                self._apply(broker, change, answers_)
                refused |= change.status == "refused"
                done += 1
                await _let_others_run(done)
            if refused:
                self._update_router()
            for request_id, outcomes in answers_.items():
                await self._ack(request_id, "subscribe", outcomes)
        if self._deferred:
            self._spawn(self._settle)

    def _apply(self, broker: str, change: FeedChange, answers_: dict[RequestId, list[Outcome]]) -> None:
        """Handle a venue's answer to one feed; ``answers_`` collects the results for each request."""
        for topic in self._candles.made_from(Topic(broker, *change.feed)):
            self._apply_to(topic, change, answers_)

    def _apply_to(self, topic: Topic, change: FeedChange, answers_: dict[RequestId, list[Outcome]]) -> None:
        hold = self._held.topics.get(topic)
        if hold is None:
            return  # released meanwhile
        if change.status == "refused":
            self._resuming.drop(topic)
            for request_id, outcome in self._held.refuse(topic, hold, change.reason):
                if outcome.code is not None:
                    self._metrics.client_errors.labels(str(outcome.code)).inc()
                answers_.setdefault(request_id, []).append(outcome)
            return
        waiting, hold.waiting, hold.others = hold.waiting, [], []
        for request_id in waiting:
            answers_.setdefault(request_id, []).append(outcome_of(topic, hold.terms, "active"))

    async def _unsubscribe(self, request: Unsubscribe) -> None:
        self._check_broker(request.broker)
        if len(request.symbols) > self._max_symbols:
            raise RequestError(405, f"too many symbols: {self._max_symbols} allowed per client")
        gone = {
            topic: hold.terms
            for topic, hold in self._held.topics.items()
            if selects(request, topic, hold.terms)
        }
        for number, topic in enumerate(gone):
            self._let_go(topic)
            await _let_others_run(number)
        self._update_router()
        beating = self.beats is not None
        if not request.symbols and (not request.types or HEARTBEAT.type in request.types):
            self.beats = None
        found = {topic.symbol for topic in gone}
        results = [outcome_of(topic, terms, "removed") for topic, terms in gone.items()]
        if beating and self.beats is None:
            results.append(Outcome(*HEARTBEAT[:3], "removed"))
        for symbol, symbol_fault in (request.symbols or {"*": None}).items():
            for kind, type_fault in (request.types or {"tick": None}).items():
                fault = symbol_fault or type_fault
                if fault is None and request.symbols and symbol not in found:
                    fault = Fault(408, f"not subscribed to {symbol}")
                if fault is not None:
                    results.append(self._faulty(request.broker, symbol, kind, fault))
        await self._ack(request.id, "unsubscribe", results)

    async def _list(self, request: ListSubscriptions) -> None:
        await self._ack(request.id, "list", [])

    async def _ping(self, request: Ping) -> None:
        self.sink.write(answers.pong(self.wire, request.id, time_ns() // 1000))

    async def _auth(self, request: Auth) -> None:
        if not self.gate.has_keys:  # not 402, which closes: that is for a key that was compared with others
            raise RequestError(
                400, "key: this server has no keys to compare it with, everyone may read; leave `auth` out"
            )
        if await self.present_key(request.key, request.id):
            await self._ack(request.id, "auth", [])
            await self._let_go_forbidden()

    async def _authenticate(self, request: Authenticate) -> None:
        self.gate.permit("stream")
        self._check_broker(request.broker)
        if not self.gate.may_use(request.broker):
            raise RequestError(409, f"not permitted: this key may not see {request.broker}")
        self._own.begin(request, self._held.topics)
        self._held.brokers = self._own.before(self._all_brokers)

    def authenticated(self, request_id: RequestId) -> None:
        """Tell the client that the venue has accepted its credentials."""
        self.sink.write(answers.ack(self.wire, request_id, "authenticate", [], self._listed()))

    async def present_key(self, key: str, request_id: RequestId = None) -> bool:
        """Get the rights of a key; if that fails, send an error, close the client and return False."""
        try:
            await self.gate.present(key)
        except RequestError as error:
            self.complain(error.code, error.message, request_id)
            busy = error.code == 406
            self.close(CloseCode.TRY_LATER if busy else CloseCode.POLICY, error.message)
            return False
        self.reading.deadline = inf
        return True

    def wait_for_key(self) -> None:
        """Start the time limit for the client's key, if it needs one."""
        if self.gate.grant is None:
            self.reading.deadline = trio.current_time() + AUTH_WITHIN_S

    def renew_grant(self) -> None:
        """Use the client's rights in the present config; close the client if it has none any more."""
        if not self.gate.renew():
            self.complain(402, "the key of this connection is no longer valid")
            self.close(CloseCode.POLICY, "key withdrawn")
        else:
            if self._held.holds_every(self.gate.symbols):
                every = [topic for topic in self._held.fresh if topic.symbol == EVERY]
                self._route(every, snapshot=False)  # others are of a request that is answered now
            if any(map(self.gate.forbids, self._held.topics)):
                self._spawn(self._end_forbidden)
        self.wait_for_key()

    async def _end_forbidden(self) -> None:
        async with self._turn:
            await self._let_go_forbidden()

    async def _let_go_forbidden(self) -> None:
        """End the subscriptions to which the client's key, a narrower one than before, has no right."""
        ended = list(filter(self.gate.forbids, self._held.topics))
        if not ended or self._gone:
            return
        results = []
        for topic in ended:
            terms = self._held.topics[topic].terms
            results.append(outcome_of(topic, terms, "error", 409, "this key has no right to it any more"))
            self._let_go(topic)
        self._update_router()
        await self._ack(None, "subscribe", results)

    # -- helpers -------------------------------------------------------------------------------------

    def _check_broker(self, name: str | None) -> None:
        """Refuse an unknown broker; one that the key may not see is refused later, whether it exists or not."""
        if name is not None and name not in self._held.brokers and self.gate.may_use(name):
            known = ", ".join(self.gate.seen(self._held.brokers)) or "none"
            raise RequestError(408, f'broker: unknown broker "{name[:40]}"; there are: {known}')

    def _let_go(self, topic: Topic) -> None:
        self._held.let_go(topic)
        self._resuming.drop(topic)

    def _listed(self) -> list[Subscription]:
        return self._held.listed(beating=self.beats is not None)

    def _update_router(self, *, snapshot: bool = False) -> None:
        """Route the client's topics, except those being replayed."""
        self._route(list(self._held.fresh), snapshot=snapshot)

    def _route(self, topics: Sequence[Topic], *, snapshot: bool) -> None:
        """Route topics that are new to the client or have new terms, after their last records if ``snapshot``.

        A new full book always begins with all its levels. Topics being replayed are not routed.
        """
        held, replayed = self._held, self._resuming.topics
        self._tell_last([one for one in topics if snapshot or held.is_new_book(one)])
        for topic in topics:
            del held.fresh[topic]
            held.topics[topic].routed = held.topics[topic].terms
        live = {
            topic: hold.routed
            for topic, hold in held.topics.items()
            if hold.routed is not None and topic not in replayed
        }
        self._own.set_topics(self._router, live, self._array)

    def _tell_last(self, topics: Sequence[Topic]) -> None:
        if topics:
            self.sink.write(last_frames(topics, self._held, self._router, self._candles))
            self._router.told(self.sink, topics)

    async def _ack(self, request_id: RequestId, action: str, results: list[Outcome]) -> None:
        if len(results) + len(self._held.topics) <= SLICE:
            self.sink.write(answers.ack(self.wire, request_id, action, results, self._listed()))
            return
        pieces = []
        for piece in answers.ack_pieces(self.wire, request_id, action, results, self._listed()):
            pieces.append(piece)
            await trio.lowlevel.checkpoint()
        self.sink.write(self.wire.frame(b"".join(pieces)))


_HANDLERS: dict[type, Callable[..., Awaitable[None]]] = {
    Subscribe: Session._subscribe,  # noqa: SLF001 - the class's own, looked up once for all clients
    Unsubscribe: Session._unsubscribe,  # noqa: SLF001
    ListSubscriptions: Session._list,  # noqa: SLF001
    Ping: Session._ping,  # noqa: SLF001
    Auth: Session._auth,  # noqa: SLF001
    Authenticate: Session._authenticate,  # noqa: SLF001
}


async def _let_others_run(done: int) -> None:
    """Yield after each slice; otherwise thousands of subscriptions would block all other clients."""
    if done % SLICE == SLICE - 1:
        await trio.lowlevel.checkpoint()
