"""For development: reload the config when its file changes, and restart the server when a plugin changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
import trio

__all__ = ["FileWatch"]

LOOK_EVERY_S = 1.0

_log = structlog.get_logger("mdserver")


class FileWatch:
    """Checks once a second whether files have changed. ``restart`` is set once the server should restart.

    ``config_files`` need not exist. ``plugins`` are folders of Python code, or modules.
    """

    def __init__(self, config_files: Sequence[Path], plugins: Sequence[Path]) -> None:
        self.restart = False
        self._config_files = tuple(config_files)
        self._plugins = tuple(plugins)

    async def run(self, reload: Callable[[], None], stop: Callable[[], None]) -> None:
        """Call ``reload`` at each change of the config, and ``stop`` at the first change of a plugin, then return."""
        config, plugins = await trio.to_thread.run_sync(self._look)
        _log.info("watching the config and the plugins for changes", files=len(config) + len(plugins))
        while True:
            await trio.sleep(LOOK_EVERY_S)
            before = config, plugins
            config, plugins = await trio.to_thread.run_sync(self._look)
            if plugins != before[1]:
                changed = sorted(plugins.items() ^ before[1].items())[0][0]
                _log.info("the code of a plugin has changed: the server restarts", file=changed)
                self.restart = True
                stop()
                return
            if config != before[0]:
                _log.info("the config file has changed: it is read again")
                reload()

    def _look(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the time of the last change of each file, first of the config, then of the plugins. Blocking."""
        return dict(_changed_at(self._config_files)), dict(_changed_at(_modules(self._plugins)))


def _modules(plugins: Sequence[Path]) -> Iterator[Path]:
    for path in plugins:
        yield from path.rglob("*.py") if path.is_dir() else (path,)


def _changed_at(paths: Sequence[Path] | Iterator[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        try:
            yield os.fspath(path), path.stat().st_mtime_ns
        except FileNotFoundError:  # a missing file counts as a state of its own: it may be being rewritten
            yield os.fspath(path), 0
