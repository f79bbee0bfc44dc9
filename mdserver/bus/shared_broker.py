"""A broker that several processes share: one leads it and runs its sessions, the others follow it on the bus.

Whoever leads holds a lease, whose fence is in the id of each entry: the engine refuses those of a leader that was
replaced. What its clients and those of the other processes want lies in keys that expire; what the venue answers goes
back the same way.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextlib import suppress
from time import time
from typing import Any

import msgspec
import trio

from ..backoff import Backoff
from ..errors import MdserverError, Unavailable, leaves
from ..feed.broker_state import NEXT, BrokerState, Shared, State
from ..feed.supervised_broker import SupervisedBroker
from ..log import RarelyLogged
from ..model import Feed, LastRecord, Topic
from .answers import Answers, decode_answers
from .engine import BusMisused, BusUnavailable, Deposed
from .followed import Followed
from .guard import Guard
from .names import answers_key, demand_prefix, holder_key, lease_key, stream_key
from .shipper import Shipper
from .take_over import AT_ONCE, HANDED_OVER, REMEMBER_S, Bus, Lead, TakeOver, catch_up

__all__ = ["SharedBroker"]

ASK_S = 0.2
"""How often demand and answers are looked at."""
SEED_S = 1.0
"""How often the database is asked that did not answer at first."""
READ_S = 1.0
"""How long a read waits for entries."""
TRIM_S = 5.0
RELEASE_S = 1.0

STANDBY = "another process leads"

TTL = 0.6
"""Of ``lease_s``: how long a lease lasts without being renewed. A standby asks for it every :data:`POLL`, and waits for
:data:`NOTICE` before it publishes, so all in all it has taken over within ``lease_s``."""
POLL = 0.1
RENEW = 0.125
NOTICE = 0.2
"""Of ``lease_s``: within so much time a leader that does not reach the bus reads in the database that another leads."""
AWAY = 0.05
RETURN = 0.25
"""Of ``lease_s``: so long, once the bus is back, another leaves the lease to the leader that had it."""

_ENDED = frozenset({State.FAILED, State.STOPPED})


_encode = msgspec.msgpack.Encoder().encode
_decode_feeds = msgspec.msgpack.Decoder(list[Feed]).decode


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
        self.leader_fence: int | None = None
        """The fence under which the leader leads, as far as is known."""
        self._is_noted = False
        """Whether the database has the fence."""
        self._knows_database = False
        """Whether it was seen since the start where the topics stand in the database."""
        self._was_away = False
        """Whether the bus could not be reached a moment ago."""
        self._rarely = RarelyLogged(self.host.log)

    def snapshot(self) -> BrokerState:
        """Return the broker as operators see it now."""
        lag_s = None if self.fence is not None else self.lag_s
        shared = Shared(self.bus.process, self.leader, self.leader_fence, lag_s)
        return msgspec.structs.replace(super().snapshot(), bus=shared)

    async def run(self) -> None:
        """Follow, and lead whenever the lease can be had, until cancelled."""
        backoff = Backoff(0.2, 3.0)
        try:
            while True:
                try:
                    fence = await self._follow(backoff)
                    await self._lead(fence)
                except* (Unavailable, BusMisused, Deposed) as group:
                    error = next(leaves(group))
                    self._history.note_error("unavailable", str(error))
                    self._rarely.error("the broker can be neither led nor followed", error=str(error))
                    self._show(State.BACKOFF, str(error))
                    self._was_away = isinstance(error, BusUnavailable)
                await trio.sleep(backoff.next_s())
        except trio.Cancelled:
            self._stop()
            raise

    def _show(self, state: State, message: str) -> None:
        """Enter a state from whatever state; what another process says of its sessions may leave states out."""
        if state is State.DEGRADED and not self.state.is_up:
            self._show(State.LIVE, message)
        if state is not self.state and state not in NEXT[self.state]:
            self._enter(State.STARTING, message)
        self._enter(state, message)

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
            await catch_up(engine, followed)
            await self._seed()
            followed.primed = True
        self.demand.begin_session()
        fence: int | None = None

        async def wait_for_lease() -> None:
            nonlocal fence
            lead = self.bus.lead
            if lead is not None and self._was_away:
                await trio.sleep(self.bus.lease_s * RETURN)
            while lead is not None:
                fence = await self._acquire()
                if fence is not None:
                    nursery.cancel_scope.cancel()
                    return
                self._show(State.STANDBY, STANDBY)
                await trio.sleep(self.bus.lease_s * POLL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_lease)
            nursery.start_soon(self._read)
            nursery.start_soon(self._seed_later)
            nursery.start_soon(self._tell_demand)
            nursery.start_soon(self._hear_answers)
            backoff.reset()
        if fence is None:
            raise AssertionError("following ends only with a lease")
        return fence

    async def _seed(self) -> None:
        """Read where the topics stand that the bus has nothing of, so that their next records are known to be next."""
        try:
            stored = await self.bus.last_records(self.name)
        except MdserverError as error:
            self._rarely.warning("where the broker's topics stand is not known yet", error=str(error))
        else:
            self._knows_database = True
            self.followed.seed({topic: (one.seq, one.time_us) for topic, one in stored.items()})

    async def _seed_later(self) -> None:
        """Read where the topics stand, if the database was unavailable at first."""
        while not self.followed.seeded:
            await trio.sleep(SEED_S)
            await self._seed()

    async def _read(self) -> None:
        stream, followed = stream_key(self.name), self.followed
        while True:
            found = await self.bus.engine.read({stream: followed.position}, most=AT_ONCE, wait_s=READ_S)
            if entries := found.get(stream):
                await followed.take(entries)
                self.host.last_event_s = time()
                if followed.newest_us:
                    self.lag_s = time() - followed.newest_us / 1e6
                continue
            edges = await self.bus.engine.edges(stream)
            if (
                edges is not None and edges[1] < followed.position
            ):  # emptied, and begun anew by another leader
                followed.begin_again()

    async def _tell_demand(self) -> None:
        """Keep what is wanted here in a key."""
        group, me = demand_prefix(self.name), self.bus.process
        ttl_s = max(3 * ASK_S, self.bus.lease_s)
        try:
            while True:
                wanted = self.demand.current()
                await self.bus.engine.put_in(group, me, _encode(sorted(wanted)), ttl_s)
                with trio.move_on_after(ttl_s / 3):
                    await self.demand.wait_changed(wanted)
        finally:
            with trio.move_on_after(RELEASE_S, shield=True):
                await _quietly(self.bus.engine.forget(group + me))

    async def _hear_answers(self) -> None:
        """Take over what the venue answered to the leader, and how the broker is."""
        key = answers_key(self.name)
        while True:
            value = await self.bus.engine.get(key)
            if value is None:
                held = await self.bus.engine.lease(lease_key(self.name))
                self.leader, self.leader_fence = None if held is None else held.holder, None
                if self.bus.lead is None and self.state is not State.BACKOFF:
                    self._show(State.BACKOFF, _unheard(self.leader))
            else:
                try:
                    self._take_answers(decode_answers(value))
                except (msgspec.DecodeError, ValueError) as error:
                    self._rarely.error("what the leader says cannot be read", key=key, error=str(error))
            await trio.sleep(ASK_S)

    def _take_answers(self, answers: Answers) -> None:
        self.leader, self.leader_fence = answers.holder, answers.fence
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
            state, message = State(answers.state), answers.message
            if self.followed.refused is not None and state.is_up:
                state, message = State.DEGRADED, f"an entry of the bus was skipped: {self.followed.refused}"
            if state is not self.state:
                self._show(state, message)

    # -- leading -----------------------------------------------------------------------------------------------

    async def _lead(self, at_least: int) -> None:
        """Run the broker's sessions while the lease lasts."""
        bus, lead, guard = self.bus, self.bus.lead, self.guard
        assert lead is not None  # noqa: S101 - it took the lease
        scope = trio.CancelScope()
        self.leader = bus.process
        self.followed.leads = True
        why_stopped = self.why_stopped
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._renew, lead, scope)
                    take_over = TakeOver(
                        bus,
                        lead,
                        self.followed,
                        self._published(),
                        is_sure=not guard.dropped,
                        knows_database=self._knows_database,
                    )
                    fence, self._is_noted, stand = await take_over.run(at_least, bus.lease_s * NOTICE)
                    self.host.log.info("this process leads the broker", fence=fence)
                    guard.until_s = trio.current_time() + bus.lease_s * RENEW * 2
                    guard.lost, guard.dropped = scope.cancel, {}
                    lead.shipper.lead(self.name, fence, scope.cancel)
                    self.fence = self.leader_fence = fence
                    self.host.continue_behind(stand)
                    self.host.elsewhere = None
                    nursery.start_soon(self._serve_others, fence)
                    nursery.start_soon(self._trim, lead.shipper)
                    await super().run()
            self.host.log.warning("this process does not lead the broker any more", fence=self.fence)
        finally:
            guard.until_s = -math.inf
            self.why_stopped = why_stopped
            if not scope.cancel_called:
                with trio.move_on_after(RELEASE_S, shield=True):
                    await _quietly(self._give_back(lead))
            lead.shipper.resign(self.name)
            if self.fence is not None:
                self.followed.note_own(self._published())
            self.fence = None
            self.host.elsewhere = self.followed
            self.followed.leads = False

    def _published(self) -> dict[Topic, LastRecord]:
        """Return where the topics stand by what this process has published, not by what was dropped then."""
        return self.host.last_records() | self.guard.dropped

    async def _acquire(self) -> int | None:
        bus = self.bus
        ttl_s = bus.lease_s * TTL
        return await bus.engine.acquire(lease_key(self.name), bus.process, ttl_s, stream_key(self.name))

    async def _renew(self, lead: Lead, scope: trio.CancelScope) -> None:
        """Keep the lease. While the bus is away this process goes on leading, until the database has a higher fence."""
        lease_s = self.bus.lease_s
        pause_s = lease_s * RENEW
        while True:
            await trio.sleep(pause_s)
            asked_s = trio.current_time()
            try:
                with trio.fail_after(pause_s):
                    ours = await self.bus.engine.renew(lease_key(self.name), self.bus.process, lease_s * TTL)
                    ours = ours or await self._leads_still()
            except (BusUnavailable, BusMisused, trio.TooSlowError) as error:
                self._rarely.warning("the lease of the broker cannot be renewed", error=str(error))
                pause_s = lease_s * AWAY
                ours = not await self._is_replaced(lead)
            else:
                pause_s = lease_s * RENEW
                if ours and self.fence is not None and not self._is_noted:
                    ours = not await self._is_replaced(lead)
            if not ours:
                self.why_stopped = STANDBY
                scope.cancel()
                return
            if self.fence is not None:
                self.guard.until_s = asked_s + lease_s * TTL

    async def _is_replaced(self, lead: Lead) -> bool:
        """Whether the database has a higher fence; it is told ours."""
        if self.fence is None:
            return True  # not begun yet: another may as well
        try:
            fence, process = await lead.fences(self.name, self.bus.process, self.fence)
        except MdserverError as error:
            self._rarely.warning("whether another process leads the broker is not known", error=str(error))
            return False
        self._is_noted = True
        return (fence, process) != (self.fence, self.bus.process)

    async def _leads_still(self) -> bool:
        """Take the lease again that the engine has lost; False where another has led, or leads."""
        engine, me = self.bus.engine, self.bus.process.encode()
        if self.fence is None or await self._acquire() is None:
            return False
        edges = await engine.edges(stream_key(self.name))
        led_last = await engine.get(holder_key(self.name))
        if led_last not in (None, me) or (edges is not None and edges[1].fence > self.fence):
            await engine.release(lease_key(self.name), self.bus.process)
            return False
        await engine.put(holder_key(self.name), me, REMEMBER_S)
        return True

    async def _serve_others(self, fence: int) -> None:
        """Want what the other processes want, and tell them what the venue answers."""
        asked: frozenset[Feed] = frozenset()
        theirs: frozenset[Feed] = frozenset()
        known: dict[str, bytes] = {}
        ttl_s = max(5 * ASK_S, self.bus.lease_s)
        told, told_at = b"", -math.inf
        try:
            while True:
                try:
                    found = await self.bus.engine.get_all(demand_prefix(self.name))
                    if found != known:
                        asked = frozenset(
                            feed
                            for process, feeds in found.items()
                            if process != self.bus.process
                            for feed in self._feeds_of(process, feeds)
                        )
                        known = found
                    wanted = frozenset(feed for feed in asked if self.demand.serves(feed.symbol))
                    for feed in wanted - theirs:
                        self.demand.hold(feed)
                    for feed in theirs - wanted:
                        self.demand.release(feed)
                    theirs = wanted
                    answers = self._answers(fence, theirs, asked - wanted)
                    if answers != told or trio.current_time() - told_at > ttl_s / 3:
                        await self.bus.engine.put(answers_key(self.name), answers, ttl_s)
                        told, told_at = answers, trio.current_time()
                except (BusUnavailable, BusMisused):
                    pass  # the shipper reports it; demand stays as it is
                await trio.sleep(ASK_S)
        finally:
            for feed in theirs:
                self.demand.release(feed)

    def _feeds_of(self, process: str, value: bytes) -> list[Feed]:
        try:
            return _decode_feeds(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._rarely.error("what a process wants cannot be read", process=process, error=str(error))
            return []

    def _answers(self, fence: int, feeds: frozenset[Feed], foreign: frozenset[Feed]) -> bytes:
        """Return what to tell the others; ``foreign``: feeds that the config does not let this broker serve."""
        refused = self.demand.refused()
        said: list[tuple[Feed, Any, str]] = [
            (feed, self.demand.status(feed), refused.get(feed, "")) for feed in sorted(feeds)
        ]
        said += [
            (feed, "refused", f"the leader of {self.name} serves only the symbols that its config names")
            for feed in sorted(foreign)
        ]
        changes = self._history.changes
        message = changes[0].message if changes else ""
        return _encode(Answers(self.bus.process, fence, str(self.state), message, said))

    async def _trim(self, shipper: Shipper) -> None:
        """Have the bus forget what is too old, also while no new records come."""
        while True:
            with suppress(BusUnavailable, BusMisused):  # the shipper reports it; kept longer it harms nobody
                await shipper.trim(self.name)
            await trio.sleep(min(TRIM_S, self.bus.keep_s / 4))

    async def _give_back(self, lead: Lead) -> None:
        """Give the lease back; where all is shipped, another goes on at once and leaves no numbers out."""
        if self.fence is not None:
            await lead.shipper.shipped(self.name)
            await self.bus.engine.put(holder_key(self.name), HANDED_OVER, REMEMBER_S)
        await self.bus.engine.release(lease_key(self.name), self.bus.process)


def _unheard(leader: str | None) -> str:
    """Return why nothing is heard of a broker."""
    if leader is None:
        return "no process leads this broker"
    return (
        f"process {leader} leads this broker, but nothing that it says is on the bus; its log says why, for instance "
        "that the memory of Redis is full"
    )


async def _quietly(work: Awaitable[None]) -> None:
    """Do what is a courtesy at the end: without it a key expires a moment later."""
    try:
        await work
    except (BusUnavailable, BusMisused):
        return
