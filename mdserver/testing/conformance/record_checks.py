"""The checks of a broker's records: their numbers, their times, their order, and what they cost."""

from __future__ import annotations

import time
from typing import Any

from ...model import US_PER_S
from .cases import BrokerCase
from .scorecard import Failed
from .server import is_priced, open_server
from .watch import MAX_HOLD_S, SessionWatch

__all__ = ["back_pressure", "loop", "times_and_numbers"]

SLOW_HOST_S = 0.002

TIME_AHEAD_US = 5 * US_PER_S
TIME_BEHIND_US = 3600 * US_PER_S

Case = BrokerCase[Any]


async def back_pressure(case: Case, watch: SessionWatch) -> str:
    """If the server is slow, no record is lost and the order is kept."""
    feed = min(case.feeds())
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want({feed})
        await server.wait_served({feed})
        await server.wait_record(feed)
        server.host.pause_s = SLOW_HOST_S
        at = len(server.host.of(feed))
        prices = [await case.send(venue, feed) for _ in range(case.burst)]
        expected = [price for price in prices if price is not None]
        if not expected:
            await server.until(
                lambda: len(server.host.of(feed)) >= at + 10, "ten more records of a slow server"
            )
            return "records keep coming"

        def arrived() -> int:
            """Return how many of the records came, in their order."""
            came = iter(server.host.of(feed)[at:])
            return sum(any(is_priced(one.record, price) for one in came) for price in expected)

        count = len(expected)
        try:
            await server.until(lambda: arrived() == count, "", case.patience_s)
        except Failed:
            raise Failed(f"of {count} records {arrived()} came, in order; expected all") from None
    return f"{count} records in order, a host of {1000 * SLOW_HOST_S:g} ms each"


async def times_and_numbers(case: Case, watch: SessionWatch) -> str:
    """Prices equal the venue's to the last digit; times are the venue's, in microseconds."""
    feeds = case.feeds()
    exact = 0
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(feeds)
        await server.wait_served(feeds)
        for _ in range(3):
            for feed in sorted(feeds):
                before_us = time.time_ns() // 1000
                price = await case.send(venue, feed)
                count = len(server.host.of(feed))
                await server.wait_priced(feed, price)
                exact += price is not None
                one = server.host.of(feed)[-1]
                now_us = time.time_ns() // 1000
                if not now_us - TIME_BEHIND_US <= one.record.time_us <= now_us + TIME_AHEAD_US:
                    raise Failed(f"time_us {one.record.time_us}, expected about {now_us}: microseconds, UTC")
                received_us = one.received_us or 0
                if not (count and price is None) and not before_us - 60 * US_PER_S <= received_us <= now_us:
                    raise Failed(f"received_us {received_us}, expected {before_us} to {now_us}")
    return f"{exact} prices exact, times within the hour"


async def loop(case: Case, watch: SessionWatch) -> str:
    """No step of the plugin blocks the loop for more than 50 ms, not even in a burst or with deeply nested garbage."""
    feed = min(case.feeds())
    watch.longest_s = 0.0
    async with case.open_venue() as venue, open_server(case, venue, watch) as server:
        server.want(case.feeds())
        await server.wait_served(case.feeds())
        for _ in range(case.burst):
            await case.send(venue, feed)
        await server.wait_record(feed)
        if "garbage" not in case.not_applicable:
            await case.garbage(venue, b"[" * 1_000_000)
            await server.wait_records_again({feed})
    if watch.longest_s > MAX_HOLD_S:
        raise Failed(
            f"a step of {watch.longest_task} blocked the loop for {1000 * watch.longest_s:.0f} ms, "
            f"expected {1000 * MAX_HOLD_S:.0f} ms at most"
        )
    return f"longest step {1000 * watch.longest_s:.1f} ms"
