"""The tutorial's code, as it stands there, against a server started as it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from .daemon import open_daemon, open_stream, write_config

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
        assert len(ticks) >= 5  # two may come at once
        assert [tick["seq"] for tick in ticks] == list(range(ticks[0]["seq"], ticks[0]["seq"] + len(ticks)))
        await daemon.wait_stored("EURUSD", 5)
        base = daemon.base

        async def in_thread(function: Callable[..., Any]) -> Any:
            return await trio.to_thread.run_sync(partial(function, base))

        candles = await in_thread(names["candles"])
        assert candles
        assert candles[-1]["low"] <= candles[-1]["close"] <= candles[-1]["high"]
        metadata = await in_thread(names["metadata"])
        assert metadata["tick_count"] >= 5
        assert metadata["brokers"][0]["broker"] == "mock"


async def test_the_broker_of_the_how_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a distribution of its own, with symbols that are wanted from the start and later."""
    (block,) = python_blocks(DOCS / "howto" / "write-a-broker.md")
    info = folder / "site" / "mdserver_myvenue-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mdserver-myvenue\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[mdserver.brokers]\nmyvenue = mdserver_myvenue:plugin\n")
    (folder / "site" / "mdserver_myvenue.py").write_text(block)
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    brokers = [{"name": "myvenue", "every_s": 0.05, "symbols": ["EURUSD"]}]
    async with open_daemon(write_config(folder, brokers=brokers, database={"store": False})) as daemon:
        for symbol in ("EURUSD", "GBPUSD"):
            async with open_stream(daemon.ws, symbol, broker="myvenue") as receive:
                with trio.fail_after(60):
                    while not (ticks := await receive()):
                        pass
            assert ticks[0]["symbol"] == symbol
        states = (await daemon.get("/api/brokers")).json()["brokers"]
        assert states[0]["state"] == "live"
