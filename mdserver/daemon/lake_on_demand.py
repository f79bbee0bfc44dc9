"""The data lake as HTTP answers need it: its plugin is loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import structlog
import trio

from ..config import LakeConfig
from ..errors import MdserverError
from ..plugin import Lake
from ..registry import open_lake

__all__ = ["LakeOnDemand"]

ANSWER_S = 3.0
"""How long one request of the lake may take, and how long it is repeated: a client waits for the answer."""

_log = structlog.get_logger("mdserver")


class LakeOnDemand:
    """Call it for the lake; None if none is configured, or its plugin cannot be used, which is logged once."""

    def __init__(self, settings: LakeConfig, folders: Sequence[Path]) -> None:
        self._settings = settings
        self._folders = folders
        self._lake: Lake | None = None
        self._tried = settings.url is None
        self._lock = trio.Lock()

    async def __call__(self) -> Lake | None:
        """Return the lake; the first call loads its plugin in a thread."""
        if self._tried:
            return self._lake
        async with self._lock:
            if not self._tried:
                await self._open()
        return self._lake

    async def _open(self) -> None:
        settings = attrs.evolve(
            self._settings,
            timeout_s=min(self._settings.timeout_s, ANSWER_S),
            retry_for_s=min(self._settings.retry_for_s, ANSWER_S),
        )
        try:
            self._lake = await trio.to_thread.run_sync(open_lake, settings, self._folders)
        except MdserverError as error:
            _log.warning(
                "records that retention has dropped cannot be answered from the data lake", problem=str(error)
            )
        self._tried = True
