"""What the conformance suite needs to know of the mock broker: it has no venue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from mdserver.model import Feed
from mdserver.testing.conformance import BrokerCase

from . import plugin

__all__ = ["MockCase", "case"]

_NO_VENUE = "there is no venue: its prices are made here"


class MockCase(BrokerCase[None]):
    """Records come by themselves, a hundred times a second for each feed."""

    plugin = plugin
    unknown = "?"
    not_applicable = dict.fromkeys(("reconnect", "gaps", "silence", "garbage", "rejection"), _NO_VENUE)

    def open_venue(self) -> AbstractAsyncContextManager[None]:
        """Open nothing."""
        return nullcontext()

    def settings(self, venue: None) -> Mapping[str, object]:
        """Return a quick rate."""
        return {"rate": 400}

    async def send(self, venue: None, feed: Feed) -> float | None:
        """Wait for what comes by itself."""
        return None


case = MockCase()
