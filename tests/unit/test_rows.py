"""Batches as columns: what they take in memory."""

from __future__ import annotations

import tracemalloc

from mdserver.kinds import BY_NAME
from mdserver.model import Published, Topic, Trade
from mdserver.store.rows import rows_of

MB = 1_000_000


def test_one_long_text_does_not_cost_its_length_for_each_row() -> None:
    topic = Topic("mock", "EURUSD", "trade")
    ids = ["x" * 100_000, *(str(n) for n in range(5_000))]
    batch = [Published(topic, seq, Trade("EURUSD", 1, 1.0, 1.0, None, one)) for seq, one in enumerate(ids, 1)]
    tracemalloc.start()
    try:
        rows = rows_of(BY_NAME["trade"], batch, [0] * len(batch), [1])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert b"x" * 100_000 in rows.copy_data
    assert most < 20 * MB
