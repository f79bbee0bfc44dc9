"""A broker that several processes share: one leads it and runs its sessions, the others follow it on the bus.

Whoever leads holds a lease, whose fence is in the id of each entry: the engine refuses those of a leader that was
replaced. What its clients and those of the other processes want lies in keys that expire; what the venue answers goes
back the same way.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import Any, NamedTuple

import msgspec
import trio

from ..backoff import Backoff
from ..errors import leaves
from ..feed.broker_host import Emit
from ..feed.broker_state import State
from ..feed.supervised_broker import SupervisedBroker
from ..metrics import Metrics
from ..model import Feed, Gap, LastRecord, Published, Topic
from .engine import START, BusEngine, BusMisused, BusUnavailable, Deposed
from .followed import FAILOVER, Followed, Marks
from .names import answers_key, demand_prefix, holder_key, lease_key, stream_key
from .shipper import Shipper

__all__ = ["LEFT_OUT", "Bus", "Guard", "Lead", "SharedBroker"]

LEFT_OUT = 1_000_000
"""Numbers that a new leader leaves out: the one before may have journalled records with them that nobody saw."""

ASK_S = 0.2
"""How often demand and answers are looked at."""
READ_S = 1.0
"""How long a read waits for entries."""
AT_ONCE = 200
TRIM_S = 5.0
REMEMBER_S = 90 * 86_400.0
"""How long the last holder of a lease is remembered."""
RELEASE_S = 1.0

STANDBY = "another process leads"

HANDED_OVER = b"-"
"""In the place of the last holder: it gave the lease back, and all its numbers are known."""

_ENDED = frozenset({State.FAILED, State.STOPPED})


class _Answers(msgspec.Struct, frozen=True, array_like=True):
    """What the leader says of a broker."""

    holder: str
    fence: int
    state: str
    message: str
    feeds: list[tuple[Feed, str, str]]


_encode = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(_Answers).decode
_decode_feeds = msgspec.msgpack.Decoder(list[Feed]).decode


class Lead(NamedTuple):
    """What a process that may lead has for it.

    ``shipper`` puts batches on the bus. ``last_records`` reads where each topic of a broker stands in the database.
    ``journal`` takes what the bus has and the database lacks, so that nothing is lost that a client saw. ``own_last``:
    where each topic stands by this process's own journal.
    """

    shipper: Shipper
    last_records: Callable[[str], Awaitable[Mapping[Topic, LastRecord]]]
    journal: Callable[[list[Published]], None]
    own_last: Callable[[str], Mapping[Topic, LastRecord]]


class Bus(NamedTuple):
    """What the brokers of a process share. ``process`` names it, also over restarts. ``lead`` None: it only follows."""

    engine: BusEngine
    process: str
    lease_s: float
    keep_s: float
    lead: Lead | None


class Guard:
    """Lets a leader's batches pass while its lease is known to last: a process that was stopped for a while must not
    publish what another leader has published meanwhile.
    """

    def __init__(self, emit: Emit, metrics: Metrics) -> None:
        self.until_s = -math.inf
        self.lost: Callable[[], None] = lambda: None
        self._emit = emit
        self._metrics = metrics

    def __call__(self, batch: list[Published]) -> None:
        """Publish a batch, or drop it where the lease is in doubt."""
        if trio.current_time() > self.until_s:
            self._metrics.unled.labels(batch[0].topic.broker).inc(len(batch))
            self.lost()
            return
        self._emit(batch)


class SharedBroker(SupervisedBroker):
    """A broker of several processes; in this one its sessions run only while this one leads."""

    bus: Bus
    followed: Followed
    guard: Guard

    def share(self, bus: Bus, followed: Followed, guard: Guard) -> None:
        """Take what it needs besides a broker's own; called once, before :meth:`run`. The host emits to ``guard``."""
        self.bus = bus
        self.followed = followed
        self.guard = guard
        self.host.elsewhere = followed
        self.fence: int | None = None
        """The fence of the lease while this process leads."""
        self.leader: str | None = None
        """The process that leads, as far as is known."""
        self.lag_s: float | None = None
        """How old the newest record from the bus was when it came."""

    async def run(self) -> None:
        """Follow, and lead whenever the lease can be had, until cancelled."""
        backoff = Backoff(0.2, 3.0)
        try:
            while True:
                try:
                    fence = await self._follow(backoff)
                    await self._lead(fence)
                except* (BusUnavailable, BusMisused, Deposed) as group:
                    error = next(leaves(group))
                    self._history.note_error("unavailable", str(error))
                    self.host.log.error("the bus cannot be used", error=str(error))
                    self._enter(State.BACKOFF, str(error))
                await trio.sleep(backoff.next_s())
        except trio.Cancelled:
            self._stop()
            raise

    # -- following ---------------------------------------------------------------------------------------------

    async def _follow(self, backoff: Backoff) -> int:
        """Take the broker's records from the bus; return the fence once this process leads."""
        engine, followed = self.bus.engine, self.followed
        if self.state in _ENDED:
            self._enter(State.STANDBY, STANDBY)
        edges = await engine.edges(stream_key(self.name))
        if edges is None or edges[1] < followed.position:  # an engine that was emptied
            followed.begin_again()
        if not followed.primed:
            await self._catch_up()
            followed.primed = True
        self.demand.begin_session()
        fence: int | None = None

        async def wait_for_lease() -> None:
            nonlocal fence
            lead = self.bus.lead
            while lead is not None:
                fence = await engine.acquire(
                    lease_key(self.name), self.bus.process, self.bus.lease_s, stream_key(self.name)
                )
                if fence is not None:
                    nursery.cancel_scope.cancel()
                    return
                self._enter(State.STANDBY, STANDBY)
                await trio.sleep(self.bus.lease_s / 4)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_lease)
            nursery.start_soon(self._read)
            nursery.start_soon(self._tell_demand)
            nursery.start_soon(self._hear_answers)
            backoff.reset()
        if fence is None:
            raise AssertionError("following ends only with a lease")
        return fence

    async def _catch_up(self) -> None:
        """Take what is on the stream."""
        stream = stream_key(self.name)
        while entries := (
            await self.bus.engine.read({stream: self.followed.position}, most=AT_ONCE, wait_s=0.001)
        ).get(stream):
            await self.followed.take(entries)

    async def _read(self) -> None:
        stream = stream_key(self.name)
        while True:
            found = await self.bus.engine.read({stream: self.followed.position}, most=AT_ONCE, wait_s=READ_S)
            if entries := found.get(stream):
                await self.followed.take(entries)
                self.host.last_event_s = time()
                newest = max((seen for _, seen in self.followed.last.values()), default=0)
                self.lag_s = time() - newest / 1e6 if newest else None

    async def _tell_demand(self) -> None:
        """Keep what is wanted here in a key."""
        key = demand_prefix(self.name) + self.bus.process
        ttl_s = max(3 * ASK_S, self.bus.lease_s)
        try:
            while True:
                wanted = self.demand.current()
                await self.bus.engine.put(key, _encode(sorted(wanted)), ttl_s)
                with trio.move_on_after(ttl_s / 3):
                    await self.demand.wait_changed(wanted)
        finally:
            with trio.move_on_after(RELEASE_S, shield=True):
                await _quietly(self.bus.engine.forget(key))

    async def _hear_answers(self) -> None:
        """Take over what the venue answered to the leader, and how the broker is."""
        key = answers_key(self.name)
        while True:
            value = (await self.bus.engine.get_all(key)).get("")
            if value is None:
                self.leader = None
                if self.bus.lead is None:
                    self._enter(State.BACKOFF, "no process leads this broker")
            else:
                self._take_answers(_decode_answers(value))
            await trio.sleep(ASK_S)

    def _take_answers(self, answers: _Answers) -> None:
        self.leader = answers.holder
        active, reasons = [], dict[str, list[Feed]]()
        for feed, status, reason in answers.feeds:
            known = self.demand.status(feed)
            if known is None:
                continue
            if status == "active" and known != "active":
                active.append(feed)
            elif status == "refused" and known != "refused":
                reasons.setdefault(reason, []).append(feed)
        self.demand.confirm(active)
        for reason, feeds in reasons.items():
            self.demand.refuse(feeds, reason)
        if self.bus.lead is None:
            state = State(answers.state)
            if state is not self.state:
                if state.is_up and not self.state.is_up:
                    self._enter(State.STARTING, answers.message)
                    self._enter(State.LIVE, answers.message)
                self._enter(state, answers.message)

    # -- leading -----------------------------------------------------------------------------------------------

    async def _lead(self, fence: int) -> None:
        """Run the broker's sessions while the lease lasts."""
        bus = self.bus
        lead = bus.lead
        assert lead is not None  # noqa: S101 - it took the lease
        scope = trio.CancelScope()
        self.fence, self.leader = fence, bus.process
        self.followed.leads = True
        self.guard.lost = scope.cancel
        why_stopped = self.why_stopped
        try:
            stand = await self._take_over(lead)
            self.host.log.info("this process leads the broker", fence=fence)
            self.guard.until_s = trio.current_time() + bus.lease_s
            lead.shipper.lead(self.name, fence, scope.cancel)
            self.host.continue_behind(stand)
            self.host.elsewhere = None
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._renew, scope)
                    nursery.start_soon(self._serve_others, fence)
                    nursery.start_soon(self._trim)
                    await super().run()
            self.host.log.warning("this process does not lead the broker any more", fence=fence)
        finally:
            self.fence = None
            self.guard.until_s = -math.inf
            self.why_stopped = why_stopped
            if not scope.cancel_called:
                with trio.move_on_after(RELEASE_S, shield=True):
                    await _quietly(self._hand_over(lead))
            lead.shipper.resign(self.name)
            self.followed.note_own(self.host.last_records())
            self.host.elsewhere = self.followed
            self.followed.leads = False

    async def _acquire(self) -> int | None:
        bus = self.bus
        return await bus.engine.acquire(lease_key(self.name), bus.process, bus.lease_s, stream_key(self.name))

    async def _take_over(self, lead: Lead) -> dict[Topic, LastRecord]:
        """Store what the bus alone has; return where each topic goes on."""
        engine, name = self.bus.engine, self.name
        await self._catch_up()
        stored = await lead.last_records(name)
        known = {topic: last.seq for topic, last in stored.items()}
        position = START
        while entries := (await engine.read({stream_key(name): position}, most=AT_ONCE, wait_s=0.001)).get(
            stream_key(name)
        ):
            position = entries[-1].position
            for entry in entries:
                found = self.followed.decode(entry)
                if found is None or isinstance(found, Marks):
                    continue
                missing = [one for one in found if one.seq > known.get(one.topic, 0)]
                if missing:
                    lead.journal(missing)
        before = (await engine.get_all(holder_key(name))).get("")
        same = before in (HANDED_OVER, self.bus.process.encode())
        await engine.put(holder_key(name), self.bus.process.encode(), REMEMBER_S)
        return self._stand(lead, stored, same=same)

    def _stand(
        self, lead: Lead, stored: Mapping[Topic, LastRecord], *, same: bool
    ) -> dict[Topic, LastRecord]:
        """Return where each topic goes on: behind all accounts, and with numbers left out where another led before."""
        stand: dict[Topic, LastRecord] = {}
        own = lead.own_last(self.name)
        mine = self.host.last_records()
        for topic in {*stored, *own, *mine, *self.followed.last}:
            accounts = [one[topic] for one in (stored, own, mine) if topic in one]
            if topic in self.followed.last:
                accounts.append(LastRecord(*self.followed.last[topic]))
            seq = max(one.seq for one in accounts)
            time_us = max(one.time_us for one in accounts)
            if not time_us:
                continue
            if same:
                stand[topic] = LastRecord(seq, time_us, Gap(topic, time_us, None, "restart"))
            else:
                stand[topic] = LastRecord(seq + LEFT_OUT, time_us, Gap(topic, time_us, None, FAILOVER))
        return stand

    async def _renew(self, scope: trio.CancelScope) -> None:
        """Keep the lease. While the bus is away this process goes on leading: nobody else can take over then."""
        lease_s = self.bus.lease_s
        while True:
            await trio.sleep(lease_s / 4)
            asked_s = trio.current_time()
            try:
                ours = await self.bus.engine.renew(lease_key(self.name), self.bus.process, lease_s)
                if not ours and not await self._leads_still():
                    self.why_stopped = STANDBY
                    scope.cancel()
                    return
            except (BusUnavailable, BusMisused) as error:
                self.host.log.warning("the lease of the broker cannot be renewed", error=str(error))
            self.guard.until_s = asked_s + lease_s

    async def _leads_still(self) -> bool:
        """Take the lease again that the engine has lost; False where another has led, or leads."""
        if await self._acquire() is None:
            return False
        edges = await self.bus.engine.edges(stream_key(self.name))
        if edges is not None and self.fence is not None and edges[1].fence > self.fence:
            await self.bus.engine.release(lease_key(self.name), self.bus.process)
            return False
        await self.bus.engine.put(holder_key(self.name), self.bus.process.encode(), REMEMBER_S)
        return True

    async def _serve_others(self, fence: int) -> None:
        """Want what the other processes want, and tell them what the venue answers."""
        theirs: frozenset[Feed] = frozenset()
        ttl_s = max(5 * ASK_S, self.bus.lease_s)
        told, told_at = b"", -math.inf
        try:
            while True:
                try:
                    found = await self.bus.engine.get_all(demand_prefix(self.name))
                    wanted = frozenset(
                        feed
                        for process, feeds in found.items()
                        if process != self.bus.process
                        for feed in _decode_feeds(feeds)
                    )
                    for feed in wanted - theirs:
                        self.demand.hold(feed)
                    for feed in theirs - wanted:
                        self.demand.release(feed)
                    theirs = wanted
                    answers = self._answers(fence, theirs)
                    if answers != told or trio.current_time() - told_at > ttl_s / 3:
                        await self.bus.engine.put(answers_key(self.name), answers, ttl_s)
                        told, told_at = answers, trio.current_time()
                except (BusUnavailable, BusMisused):
                    pass  # the shipper reports it; demand stays as it is
                await trio.sleep(ASK_S)
        finally:
            for feed in theirs:
                self.demand.release(feed)

    def _answers(self, fence: int, feeds: frozenset[Feed]) -> bytes:
        refused = self.demand.refused()
        said: list[tuple[Feed, Any, str]] = [
            (feed, self.demand.status(feed), refused.get(feed, "")) for feed in sorted(feeds)
        ]
        changes = self._history.changes
        message = changes[0].message if changes else ""
        return _encode(_Answers(self.bus.process, fence, str(self.state), message, said))

    async def _trim(self) -> None:
        """Have the bus forget what is older than it keeps."""
        marks: list[tuple[float, Any]] = []
        while True:
            try:
                edges = await self.bus.engine.edges(stream_key(self.name))
                now_s = trio.current_time()
                if edges is not None:
                    marks.append((now_s, edges[1]))
                while len(marks) > 1 and marks[1][0] <= now_s - self.bus.keep_s:
                    del marks[0]
                if marks and marks[0][0] <= now_s - self.bus.keep_s:
                    await self.bus.engine.trim(stream_key(self.name), marks[0][1])
            except (BusUnavailable, BusMisused):
                pass  # the shipper reports it; what is kept longer harms nobody
            await trio.sleep(min(TRIM_S, self.bus.keep_s / 4))

    async def _hand_over(self, lead: Lead) -> None:
        """Give the lease back once all is shipped, so that another goes on at once and leaves no numbers out."""
        await lead.shipper.shipped(self.name)
        await self.bus.engine.put(holder_key(self.name), HANDED_OVER, REMEMBER_S)
        await self.bus.engine.release(lease_key(self.name), self.bus.process)


async def _quietly(work: Awaitable[None]) -> None:
    """Do what is a courtesy at the end: without it a key expires a moment later."""
    try:
        await work
    except (BusUnavailable, BusMisused):
        return
