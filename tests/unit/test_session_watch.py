"""What the suite for plugins takes for a step that blocks the loop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from mdserver.testing.conformance.watch import SessionWatch, mark_session


@pytest.fixture
def busy_processor() -> Iterator[None]:
    """Leave this thread one processor, and to another process, which is never idle, the same one."""
    if not Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this system does not count how long a thread is kept waiting")
    before = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            os.sched_setaffinity(other.pid, {min(before)})
            os.sched_setaffinity(0, {min(before)})
            yield
        finally:
            os.sched_setaffinity(0, before)
            other.kill()


async def measured(step: Callable[[], None]) -> float:
    """Return how long the watch found a plugin's step, which is called."""
    watch = SessionWatch()

    async def session() -> None:
        mark_session()
        await trio.lowlevel.checkpoint()
        step()
        await trio.lowlevel.checkpoint()

    trio.lowlevel.add_instrument(watch)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session)
    finally:
        trio.lowlevel.remove_instrument(watch)
    return watch.longest_s


async def test_waiting_for_a_processor_does_not_count(busy_processor: None) -> None:
    elapsed_s = 0.0

    def compute() -> None:
        nonlocal elapsed_s
        began, used = time.perf_counter(), time.thread_time()
        time.sleep(0.001)  # gives the processor up, as a lock or a page that is not there does
        while time.thread_time() - used < 0.1:
            pass
        elapsed_s = time.perf_counter() - began

    found_s = await measured(compute)
    assert 0.1 <= found_s < elapsed_s - 0.03


async def test_a_blocking_call_counts(busy_processor: None) -> None:
    assert await measured(lambda: time.sleep(0.1)) > 0.09  # two clocks of the kernel
