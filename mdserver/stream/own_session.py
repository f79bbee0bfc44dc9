"""A session of a broker for one client alone, with that client's credentials: nobody else gets its records."""

from __future__ import annotations

from collections.abc import Callable

from ..feed.supervised_broker import SupervisedBroker
from .router import Router

__all__ = ["OpenOwn", "OwnSession"]


class OwnSession:
    """A broker that publishes to a router of its own; its records are neither journalled nor sent to other clients.

    ``start`` runs the broker and returns a function that ends it.
    """

    def __init__(
        self, broker: SupervisedBroker, router: Router, start: Callable[[], Callable[[], None]]
    ) -> None:
        self.broker = broker
        self.router = router
        self._start = start
        self._end: Callable[[], None] | None = None

    def start(self) -> None:
        """Start the session. Raises RuntimeError if the server is stopping."""
        self._end = self._start()

    def end(self) -> None:
        """End the session in any state."""
        if self._end is not None:
            self._end()


OpenOwn = Callable[[str, dict[str, object]], OwnSession]
"""Makes a session from a broker's name and a client's credentials, without starting it.

Raises RequestError: 408 for an unknown broker, 409 if the config does not allow it, 400 for invalid credentials, 405
if there are too many sessions.
"""
