"""The checks of a broker's session: its start and end, what it serves, what it leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import trio

from ...feed.demand import FeedChange
from ...model import Feed
from ...registry import check_descriptor
from .cases import BrokerCase
from .scorecard import Failed
from .server import STOP_S, SuiteHost, SuiteServer, captured_log, is_priced, load_settings, open_server
from .watch import SessionWatch, mark_session, nothing_left

__all__ = ["cancellation", "demand", "descriptor", "lifecycle", "nothing_behind", "refusal"]

CUTS = 60
"""The most sessions that are cancelled, each at a later step."""

Case = BrokerCase[Any]


async def descriptor(case: Case, watch: SessionWatch) -> str:
    """The server accepts the descriptor and the settings."""
    check_descriptor(case.plugin)
    async with case.open_venue() as venue:
        load_settings(case.plugin, case.settings(venue))
    if not case.plugin.summary.strip():
        raise Failed("the descriptor has no summary: `mdserver plugins` shows it")
    if len(case.symbols) < 2:
        raise Failed(f"the case has the symbols {list(case.symbols)}, expected two or more")
    return f"{', '.join(case.plugin.types)}; candles from {case.plugin.candles_from}"


async def lifecycle(case: Case, watch: SessionWatch) -> str:
    """A session calls started() in time, serves the wanted feeds, and ends soon after it is cancelled."""
    feeds = case.feeds()
    async with case.open_venue() as venue:
        began = trio.current_time()
        async with open_server(case, venue, watch) as server:
            server.want(feeds)
            await server.wait_state("live")
            live_s = trio.current_time() - began
            await server.wait_served(feeds)
            await server.wait_records(feeds)
            await _hold(case, server)
            ended = trio.current_time()
        ended = trio.current_time() - ended
    return f"live after {1000 * live_s:.0f} ms, ended {1000 * ended:.0f} ms after it was cancelled"


async def _hold(case: Case, server: SuiteServer) -> None:
    """Raise Failed if the session ends within the case's ``holds_s``."""
    deadline, states = trio.current_time() + case.holds_s, len(server.states)
    while trio.current_time() < deadline:
        if len(server.states) > states:
            raise Failed(
                f"the session ended by itself within {case.holds_s:g} s, expected it to hold: "
                f"{server.broker.last_error}"
            )
        await trio.sleep(0.02)


async def cancellation(case: Case, watch: SessionWatch) -> str:
    """A session that is cancelled, at any step, ends at once, raises nothing and leaves nothing behind.

    Each of the first 16 steps is tried, then every eighth part further, until the session serves the wanted feeds.
    """
    steps, count, longest_s = 1, 0, 0.0
    async with case.open_venue() as venue:
        config = load_settings(case.plugin, case.settings(venue))
        while count < CUTS:
            async with nothing_left(f"cancelled at step {steps}"):
                reached, took_s = await _cancel_at(case, config, watch, venue, steps)
            if took_s > STOP_S:
                raise Failed(
                    f"cancelled at step {steps} it took {took_s:.1f} s to end, expected {STOP_S:g} s at most"
                )
            longest_s = max(longest_s, took_s)
            if not reached:
                break
            count += 1
            steps += max(1, steps // 8)
    return f"{count} sessions cancelled up to step {steps}, the slowest ended after {1000 * longest_s:.0f} ms"


async def _cancel_at(
    case: Case, config: Any, watch: SessionWatch, venue: Any, steps: int
) -> tuple[bool, float]:
    """Run a session and cancel it at a step, or once it serves; return which, and how long it took to end."""
    feeds = case.feeds()
    cancelled_at: list[float] = []
    with captured_log() as (log, _):
        host = SuiteHost(case.plugin.name, log, watch)
        for feed in feeds:
            host.demand.hold(feed)
        scope, over = trio.CancelScope(), trio.Event()

        async def session() -> None:
            mark_session()
            try:
                with scope:
                    async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - `start` needs one
                        await nursery.start(case.make_broker(config).run, host)
            finally:
                over.set()

        async with trio.open_nursery() as nursery:
            watch.cancel_after(steps, scope)
            nursery.start_soon(session)
            deadline = trio.current_time() + case.patience_s
            while not scope.cancel_called and not over.is_set():
                confirmed = all(host.demand.status(feed) == "active" for feed in feeds)
                if confirmed or trio.current_time() > deadline:
                    break
                await trio.sleep(0.001)
            reached = scope.cancel_called
            if not reached and over.is_set():
                raise Failed("the session ended by itself before it served anything")
            cancelled_at.append(trio.current_time())
            scope.cancel()
            with trio.move_on_after(2 * STOP_S):
                await over.wait()
            nursery.cancel_scope.cancel()
    return reached, trio.current_time() - cancelled_at[0]


async def demand(case: Case, watch: SessionWatch) -> str:
    """The session follows demand: it grows, shrinks to nothing and returns."""
    first, second = ({f for f in case.feeds() if f.symbol == s} for s in case.symbols[:2])
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        await server.wait_state("live")
        server.want(first)
        await server.wait_served(first)
        server.want(second)
        await server.wait_served(first | second)
        server.let_go(first)
        await server.wait_unserved({feed.symbol for feed in first})
        await server.check_quiet(first)
        await server.wait_records(second)
        server.let_go(second)
        await server.wait_unserved({feed.symbol for feed in first | second})
        # A feed that is dropped and wanted again at once must be subscribed like any other.
        server.want(first | second)
        server.let_go(first)
        server.want(first)
        await server.wait_served(first | second)
        await server.wait_records(first | second)
        await _keeps_while_others_change(server, min(second), first)
        if len([state for state, _ in server.states if state == "live"]) > 1:
            raise Failed(f"a change of demand ended the session: {server.broker.last_error}")
    return "grows, shrinks to nothing, returns"


async def _keeps_while_others_change(server: SuiteServer, kept: Feed, others: Collection[Feed]) -> None:
    """Raise Failed if records of a feed are lost, without a gap, while others are let go and wanted again."""
    at, gap_count = len(server.host.of(kept)), len(server.host.gaps)
    prices: list[float | None] = []
    for _ in range(4):
        for change in (server.let_go, server.want):
            change(others)
            prices.append(await server.case.send(server.venue, kept))
            await trio.sleep(0.01)  # so that the plugin is at work on the change with the next record
    expected = [price for price in prices if price is not None]

    def missing() -> list[float]:
        came = server.host.of(kept)[at:]
        return [price for price in expected if not any(is_priced(one.record, price) for one in came)]

    def told() -> bool:
        return any(Feed(*gap.topic[1:]) == kept for gap in server.host.gaps[gap_count:])

    try:
        await server.until(lambda: told() or not missing(), "")
    except Failed:
        raise Failed(
            f"while other feeds were let go and wanted again, {kept.symbol} {kept.type} lost records without a gap: "
            f"{missing()} of {expected}"
        ) from None


async def refusal(case: Case, watch: SessionWatch) -> str:
    """A symbol that the venue does not have is refused with a reason, harms no other, and may be wanted again.

    It is wanted again at once, before any task of the plugin has run, and once more later.
    """
    feeds = case.feeds()
    unknown = Feed(case.unknown, case.plugin.types[0])
    reasons: list[str] = []
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:

        def come_back(changes: Sequence[FeedChange]) -> None:
            for change in changes:
                if change.feed == unknown and change.status == "refused":
                    reasons.append(change.reason)
                    if len(reasons) == 1:
                        server.let_go([unknown])
                        server.want([unknown])

        server.demand.watch(come_back)
        server.want({*feeds, unknown})
        for count, when in (
            (1, ""),
            (2, ", wanted again at once"),
            (3, ", wanted again later"),
        ):
            await server.until(
                lambda count=count: len(reasons) >= count,  # type: ignore[misc]
                f"{case.unknown} refused{when}",
            )
            await server.wait_served(feeds)
            await server.wait_records(feeds)
            if count == 2:
                server.let_go([unknown])
                server.want([unknown])
    if not all(reason.strip() for reason in reasons):
        raise Failed("the reason of the refusal is empty: clients receive it")
    return f"“{reasons[0][:70]}”"


async def nothing_behind(case: Case, watch: SessionWatch) -> str:
    """Ten sessions, half of them cut by the venue, leave neither tasks nor sockets."""
    feeds = case.feeds()
    rounds = 5
    async with nothing_left("after all sessions"):
        for _ in range(rounds):
            async with case.open_venue() as venue, open_server(case, venue, watch) as server:
                server.want(feeds)
                await server.wait_served(feeds)
                if "reconnect" not in case.not_applicable:
                    await case.cut(venue)
                    await server.wait_records_again({min(feeds)})
    return f"nothing left after {rounds} servers and {2 * rounds} sessions"
