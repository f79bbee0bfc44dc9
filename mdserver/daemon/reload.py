"""Reloads the config while the server runs: compares it with the present one and applies the changes to the parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
import trio

from ..config import Config, changed_settings, secret_values
from ..errors import ConfigError, leaves
from ..log import set_up_logging
from ..redact import hide_values
from .parts import Part
from .service_manager import tell_ready, tell_reloading

__all__ = ["Reload"]

_TAKEN_HERE = frozenset({"history", "log"})
"""Sections without a part of their own: their users read the present config each time."""


class Reload:
    """Reloads the config on request.

    ``config`` is the present config, except for settings that only a restart applies. ``load`` reads and checks the
    file; blocking. The parts apply their settings one after the other, first the web server: if it refuses them,
    nothing changes.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        parts: Sequence[Part],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.config = config
        self._started_with = config
        self._load = load
        self._parts = tuple(part for part in reversed(parts) if part.reconfigures)
        self._log = log
        self._asked = trio.Event()
        self._turn = trio.Lock()

    def ask(self) -> None:
        """Request a reload; for signals."""
        self._asked.set()

    async def run(self) -> None:
        """Reload the config at each request. Runs until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            tell_reloading()
            try:
                await self.now()
            except ConfigError as error:
                self._log.error(
                    "the config was not reloaded: it has errors, the previous one stays in use",
                    problems=error.problems,
                )
            finally:
                tell_ready()

    async def now(self) -> None:
        """Read the config and apply it. Raises ConfigError if it cannot be used; then nothing has changed."""
        async with self._turn:
            new = await trio.to_thread.run_sync(self._load)
            hide_values(secret_values(new))
            changed = changed_settings(self.config, new)
            for part in self._parts:
                await self._apply(part, new, changed)
            self.config = new
            set_up_logging(new.log)
            self._report(changed, changed_settings(self._started_with, new))

    async def _apply(self, part: Part, new: Config, changed: frozenset[str]) -> None:
        problems: list[str] = []
        try:
            await part.reconfigure(new, changed)
        except* ConfigError as group:
            problems += map(str, leaves(group))
        except* Exception as group:  # noqa: BLE001 - the other parts still apply the config
            self._log.exception("a part failed to reload its settings", part=part.name, exc_info=group)
        if problems:
            raise ConfigError(problems)

    def _report(self, changed: frozenset[str], since_start: frozenset[str]) -> None:
        taken = _TAKEN_HERE.union(*(part.reconfigures for part in self._parts))
        later = sorted(path for path in since_start if not _covers(taken, path))
        if later:
            self._log.warning("these settings need a restart", settings=later)
        now = sorted(path for path in changed if _covers(taken, path))
        self._log.info("the config was reloaded", changed=now)


def _covers(taken: frozenset[str], path: str) -> bool:
    return path in taken or path.partition(".")[0] in taken
