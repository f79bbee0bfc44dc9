"""The tutorial's code, as it stands there, against a server started as it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from .daemon import open_daemon, write_config

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(path: Path) -> list[str]:
    """Return the Python blocks that the page marks as tested."""
    return re.findall(r"<!-- tested -->\n```python\n(.*?)```", path.read_text(), re.DOTALL)


async def test_first_steps(folder: Path) -> None:
    blocks = python_blocks(DOCS / "tutorial" / "first-steps.md")
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the page's own code
    async with open_daemon(write_config(folder)) as daemon:
        ticks = await names["main"](daemon.ws)
        assert [tick["seq"] for tick in ticks] == list(range(ticks[0]["seq"], ticks[0]["seq"] + 5))
        await trio.sleep(0.7)
        base = daemon.base

        async def in_thread(function: Callable[..., Any]) -> Any:
            return await trio.to_thread.run_sync(partial(function, base))

        candles = await in_thread(names["candles"])
        assert candles
        assert candles[-1]["low"] <= candles[-1]["close"] <= candles[-1]["high"]
        metadata = await in_thread(names["metadata"])
        assert metadata["tick_count"] >= 5
        assert metadata["brokers"][0]["broker"] == "mock"
