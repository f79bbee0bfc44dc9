"""The checks of a broker whose venue misbehaves."""

from __future__ import annotations

import itertools
from typing import Any

import trio

from ...model import Feed
from ..http_venue import FakeHttpVenue, HttpFault
from .cases import BrokerCase, HttpCase
from .scorecard import Failed, NotApplicable, quoted
from .server import open_server, secrets_of
from .watch import SessionWatch

__all__ = ["GARBAGE", "gaps", "garbage", "pace", "reconnect", "rejection", "secrets", "silence"]

GARBAGE = (
    b'{"this is": not JSON',
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"type": 5, "channel": [], "e": {}, "data": "?", "symbol": null}',
    b"[" * 100_000,
    b'{"bid": 1e999, "ask": -1, "price": "NaN", "time": "9999-99-99"}',
    b"<html><head><title>502 Bad Gateway</title></head></html>",
)
"""Messages that no venue should send, and that real venues have sent."""

PACE_S = 0.7
"""For so long requests are counted: less than the second for which the venue asks the plugin to wait."""

FEW = 20
"""Requests within that time that are no fault: heartbeats, and one attempt of each of the plugin's tasks."""

Case = BrokerCase[Any]


async def reconnect(case: Case, watch: SessionWatch) -> str:
    """After a lost connection, and after an unavailable venue, every wanted feed is served again."""
    feeds = case.feeds()
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(feeds)
        await server.wait_served(feeds)
        await server.wait_records(feeds)
        await case.cut(venue)
        await server.wait_records_again(feeds)
        await case.refuse(venue, 503)
        await server.until(lambda: server.broker.state != "live", "an unavailable venue (503) noticed")
        await trio.sleep(0.3)
        if server.broker.state == "failed":
            raise Failed(
                f"the broker failed for good while the venue was unavailable: {server.broker.last_error}"
            )
        why = server.broker.last_error
        await case.admit(venue)
        await server.wait_state("live")
        await server.wait_served(feeds)
        await server.wait_records(feeds)
    return f"{server.broker.attempt} attempts; unavailable: {quoted(why)}"


async def gaps(case: Case, watch: SessionWatch) -> str:
    """After a lost connection a gap of each feed is announced, because records may be missing."""
    feeds = case.feeds()
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(feeds)
        await server.wait_served(feeds)
        await server.wait_records(feeds)
        await case.cut(venue)
        await server.wait_records_again(feeds)
        told = {Feed(*gap.topic[1:]) for gap in server.host.gaps}
        if missing := feeds - told:
            raise Failed(
                f"no gap of {', '.join(sorted(f.symbol + ' ' + f.type for f in missing))} after a lost connection: a "
                "session that reconnects by itself must call host.gap()"
            )
    return f"{len(server.host.gaps)} gaps: {', '.join(sorted({gap.cause for gap in server.host.gaps}))}"


async def silence(case: Case, watch: SessionWatch) -> str:
    """A dead but open connection is noticed in time, by the plugin, or by the server after its silence_s."""
    feeds = case.feeds()
    limit_s = case.notices_within_s
    silence_s = None if case.plugin.silence_s is None else min(case.plugin.silence_s, limit_s / 2)
    async with (
        case.open_venue() as venue,
        open_server(case, venue, watch, silence_s=silence_s) as server,
    ):
        server.want(feeds)
        await server.wait_served(feeds)
        await server.wait_records(feeds)
        await case.go_dark(venue)
        began, states = trio.current_time(), len(server.states)
        await server.until(
            lambda: len(server.states) > states or server.host.gaps,
            "a dead connection noticed",
            limit_s + 2.0,
        )
        noticed_s = trio.current_time() - began
        why = server.broker.last_error
        await case.admit(venue)
        await server.wait_state("live")
        await server.wait_served(feeds)
        await server.wait_records(feeds)
    return f"noticed after {noticed_s:.1f} s: {quoted(why)}"


async def garbage(case: Case, watch: SessionWatch) -> str:
    """Whatever the venue sends, the session goes on or raises Unavailable; it is reported, and later records arrive."""
    feed = min(case.feeds())
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(case.feeds())
        await server.wait_served(case.feeds())
        for data in GARBAGE:
            await case.garbage(venue, data)
            await server.wait_records_again({feed})
            server.verify()
        ended = sum(state == "backoff" for state, _ in server.states)
        if not server.host.discarded and not ended:
            raise Failed("the garbage was not reported: expected host.discard(BadMessage(…))")
    return f"{len(server.host.discarded)} messages discarded, sessions ended: {ended}"


async def pace(case: HttpCase[Any], watch: SessionWatch) -> str:
    """A venue that asks for a pause gets one, and one whose answers are no use is not asked for them faster."""
    feeds = case.feeds()
    counts: list[int] = []
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(feeds)
        await server.wait_served(feeds)
        await server.wait_records(feeds)
        usual = await _requests(venue)
        for what, fault, most in (
            ("429 with Retry-After: 1", HttpFault("status", 429, headers={"Retry-After": "1"}), FEW),
            ("what is no JSON", HttpFault("status", 200, b"?"), FEW + 2 * usual),
        ):
            before = len(venue.requests)
            venue.fail(fault)
            await server.until(lambda: len(venue.requests) > before, "another request")  # noqa: B023 - waited for here
            counts.append(await _requests(venue))
            if counts[-1] > most:
                raise Failed(
                    f"{counts[-1]} requests within {PACE_S:g} s while the venue answers {what}, expected {most} at "
                    "most: wait before the next attempt (retry_after_s of the error, mdserver.net.Backoff)"
                )
            await case.admit(venue)
            await server.wait_records_again(feeds)
    return f"within {PACE_S:g} s {usual} requests, {counts[0]} when told to wait, {counts[1]} when answered nonsense"


async def _requests(venue: FakeHttpVenue) -> int:
    before = len(venue.requests)
    await trio.sleep(PACE_S)
    return len(venue.requests) - before


async def rejection(case: Case, watch: SessionWatch) -> str:
    """Wrong credentials (401) are final: state failed, one plain sentence, no more attempts."""
    async with case.open_venue() as venue:
        await case.refuse(venue, 401)
        async with open_server(case, venue, watch) as server:
            server.want(case.feeds())
            await server.until(
                lambda: server.broker.state == "failed" or server.broker.attempt > 3,
                f"state failed, found {server.broker.state}",
            )
            if server.broker.state != "failed":
                raise Failed("the broker keeps trying: raise Rejected where trying again cannot help")
            text = server.broker.last_error or ""
    if not text.strip() or "\n" in text or len(text) > 500:
        raise Failed(f"expected one sentence with the reason, found {text[:200]!r}")
    return quoted(text)


async def secrets(case: Case, watch: SessionWatch) -> str:
    """A secret of the config is never shown, whatever goes wrong: not in a repr, the log or the state."""
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        hidden = secrets_of(server.config)
        if not hidden:
            raise NotApplicable("the config has no secret")
        feed = min(case.feeds())
        server.want(case.feeds())
        await server.wait_served(case.feeds())
        texts = [repr(server.config), str(server.config), repr(case.make_broker(server.config))]
        for trouble in ("garbage", "cut", "refuse", "reject"):
            if trouble in case.not_applicable:
                continue
            if trouble == "garbage":
                await case.garbage(venue, GARBAGE[0])
                await server.wait_records_again({feed})
            elif trouble == "cut":
                await case.cut(venue)
                await server.wait_records_again({feed})
            else:
                await case.refuse(venue, 503 if trouble == "refuse" else 401)
                await server.wait_tried()
                if trouble == "refuse":
                    await case.admit(venue)
                    await server.wait_records_again({feed})
        texts += server.log_lines + [message for _, message in server.states]
        texts += [server.broker.last_error or "", *server.demand.refused().values()]
        texts += map(str, server.host.discarded)
    for text, secret in itertools.product(texts, hidden):
        if secret in text:
            raise Failed(f"a secret is shown: {text.replace(secret, '<HERE>')[:200]}")
    return f"{len(texts)} texts without any of {len(hidden)}"
