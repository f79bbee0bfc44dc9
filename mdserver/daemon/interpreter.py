"""Python's garbage collector and its turns between threads, set for a server that hands on a record within 0.1 ms.

**The collector.** A full collection stops everything while it walks all objects there are: 12 to 45 ms for those that
the start leaves behind, at any moment, which is several hundred times the latency of a record. So:

* after the start all that exists is collected once and frozen: no later collection looks at it;
* young objects are collected as usual, in steps that take a millisecond or two at most (:data:`YOUNG`);
* old ones are collected only when memory has grown by :data:`GROWTH`. That happens where long-lived connections have
  come and gone: each leaves some 90 objects in cycles (tasks, frames, exceptions of the server's libraries), which
  nothing else frees. While the same clients stay, memory does not grow and no full collection is made.

There is no waiting for an idle moment: a server that streams has none, and what has come since the start is walked in
a millisecond for every twenty clients or so.

**Turns.** Each write to a socket lets go of the interpreter. A worker thread that is making rows for the database takes
it, and by default keeps it for 5 ms. With 20 writes a record, 5,000 records/s and a thread that computes for 6 ms four
times a second, the 99th percentile of a pass was 19 ms; with :data:`TURN_S` of 0.5 ms 8, and of 0.1 ms 5.
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
"""A collection of the youngest for so many new containers, one of the middle generation for so many of those."""
NEVER = 1_000_000_000
GROWTH = 1.25
LEAST_GROWTH_BYTES = 32 * 1024 * 1024
CHECK_S = 1.0
TURN_S = 0.0002
"""After so long a thread lets another one go on that waits for the interpreter; a switch costs some 5 µs."""

_STATM = Path("/proc/self/statm")
_SIZE_IS_KNOWN = _STATM.exists()
_log = structlog.get_logger("mdserver")


def settle() -> None:
    """Collect and freeze what the start, or a reload, has left. Takes some 50 ms: nothing is streamed yet, or again."""
    sys.setswitchinterval(TURN_S)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # Where the size of memory is not known, Python's own rule for the oldest generation stays.
    gc.set_threshold(*YOUNG, NEVER if _SIZE_IS_KNOWN else 10)


async def keep_memory_in_bounds() -> None:
    """Settle, and from then on collect what is old when memory has grown; runs until cancelled."""
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
    """Return how much memory this process holds; Linux."""
    return int(os.pread(_statm(), 128, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _statm() -> int:
    """Return a descriptor that stays open: there may be none left when memory is looked at."""
    return os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
