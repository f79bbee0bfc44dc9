"""A session of a broker for one client alone, with that client's credentials: nobody else gets its records."""

from __future__ import annotations

from collections.abc import Callable

from ..feed.supervised_broker import SupervisedBroker
from .router import Router

__all__ = ["OpenOwn", "OwnSession"]


class OwnSession:
    """A broker that publishes to a router of its own: not to the journal, not to others.

    ``start`` runs the broker and returns what ends it.
    """

    def __init__(
        self, broker: SupervisedBroker, router: Router, start: Callable[[], Callable[[], None]]
    ) -> None:
        self.broker = broker
        self.router = router
        self._start = start
        self._end: Callable[[], None] | None = None

    def start(self) -> None:
        """Connect. Raises RuntimeError where the server stops."""
        self._end = self._start()

    def end(self) -> None:
        """End the session, whatever it does."""
        if self._end is not None:
            self._end()


OpenOwn = Callable[[str, dict[str, object]], OwnSession]
"""Makes a session, not started yet, from a broker's name and a client's credentials.

Raises RequestError: 408 for an unknown broker, 409 where the config does not allow it, 400 for wrong credentials, 405
where there are too many.
"""
