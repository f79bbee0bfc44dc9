"""Settings of Python's garbage collector and thread switching, for a server that sends on a record within 0.1 ms.

**The collector.** A full collection stops all threads while it visits every object. For the objects that exist after
the start it takes 12 to 45 ms, several hundred times the latency of a record, and it may begin at any moment. So:

* after the start all existing objects are collected once and frozen, so that later collections skip them;
* young objects are collected as usual, in steps of a millisecond or two at most (:data:`YOUNG`);
* old objects are collected only when memory has grown by :data:`GROWTH`. It grows when long-lived connections come and
  go: each leaves some 90 objects in cycles (tasks, frames, exceptions of the server's libraries), which nothing else
  frees. While the same clients stay connected, memory does not grow and there is no full collection.

A collection does not wait for an idle moment, because a streaming server has none. The objects made since the start
take about one millisecond for every twenty clients.

**Thread switching.** Each write to a socket releases the interpreter lock. A worker thread that computes rows for the
database then takes it, and by default keeps it for 5 ms. With 20 writes per record, 5,000 records/s and a thread that
computes for 6 ms four times a second, the 99th percentile of a pass was 19 ms; it was 8 ms with a :data:`TURN_S` of
0.5 ms, and 5 ms with 0.1 ms.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path

import structlog
import trio

__all__ = ["GROWTH", "LEAST_GROWTH_BYTES", "keep_memory_in_bounds", "settle"]

YOUNG = (2_000, 10)
"""New containers before a collection of the youngest generation, and such collections before one of the middle."""
NEVER = 1_000_000_000
GROWTH = 1.25
LEAST_GROWTH_BYTES = 32 * 1024 * 1024
CHECK_S = 1.0
TURN_S = 0.0002
"""How long a thread keeps the interpreter lock while another one waits for it; a switch costs about 5 µs."""

_STATM = Path("/proc/self/statm")
_SIZE_IS_KNOWN = _STATM.exists()
_log = structlog.get_logger("mdserver")


def settle() -> None:
    """Collect and freeze the objects left by the start or a reload. Takes about 50 ms, in which nothing is streamed."""
    sys.setswitchinterval(TURN_S)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # If the memory size is unknown, Python's own rule for the oldest generation stays in force.
    gc.set_threshold(*YOUNG, NEVER if _SIZE_IS_KNOWN else 10)


async def keep_memory_in_bounds() -> None:
    """Call :func:`settle`, then collect old objects whenever memory has grown. Runs until cancelled."""
    settle()
    if not _SIZE_IS_KNOWN:
        await trio.sleep_forever()
    bound = _next_bound()
    while True:
        await trio.sleep(CHECK_S)
        if resident_bytes() < bound:
            continue
        began = trio.current_time()
        freed = gc.collect()
        bound = _next_bound()
        _log.info(
            "ran a full garbage collection, because memory had grown",
            objects=freed,
            ms=round((trio.current_time() - began) * 1000, 1),
            resident_mib=resident_bytes() >> 20,
        )


def _next_bound() -> float:
    now = resident_bytes()
    return max(now * GROWTH, now + LEAST_GROWTH_BYTES)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes. Linux only."""
    return int(os.pread(_statm(), 128, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _statm() -> int:
    """Return a descriptor that stays open, because none may be free when memory is measured."""
    return os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
