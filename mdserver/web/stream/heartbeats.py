"""Heartbeats, sent once a second on request: the newest numbers of a client's topics, so that it can detect a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time_ns
from typing import Protocol

from ...model import Topic
from ...protocol import answers
from ...protocol.encoding import Wire
from ...stream.router import Router

__all__ = ["HEARTBEAT", "Beating", "Heartbeats"]

HEARTBEAT = Topic("*", "*", "heartbeat")
"""How the subscription to heartbeats is listed."""


class Beating(Protocol):
    """A client, as its heartbeats see it."""

    beats: int | None
    """How many heartbeats it has had; None: it wants none."""

    @property
    def wire(self) -> Wire:
        """The encoding of its messages."""
        ...

    def tell(self, frames: bytes) -> None:
        """Send the client whole frames."""
        ...

    def mine(self, seqs: Mapping[Topic, int]) -> Mapping[Topic, int]:
        """Return, from the numbers of all topics, those of the client's topics."""
        ...

    def variant_of(self, topic: Topic) -> str | int | None:
        """Return the depth or interval of one of the client's topics, as the client names it."""
        ...


class Heartbeats:
    """Sends the heartbeats; the topics that changed within a second are found once for all clients."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._seqs: dict[Topic, int] = {}

    def beat(self, clients: Iterable[Beating]) -> None:
        """Send a heartbeat to each client that wants it, after all records published before."""
        wanting = [client for client in clients if client.beats is not None]
        if not wanting:
            self._seqs.clear()
            return
        self._router.flush()
        before, self._seqs = self._seqs, self._router.last_seqs()
        changed = {topic: seq for topic, seq in self._seqs.items() if before.get(topic) != seq}
        now_us = time_ns() // 1000
        for client in wanting:
            client.beats = (client.beats or 0) + 1
            mine = client.mine(changed)
            client.tell(answers.heartbeat(client.wire, client.beats, now_us, mine, client.variant_of))
