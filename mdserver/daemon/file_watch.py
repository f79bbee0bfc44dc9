"""For development: a changed config file is taken over, and changed plugins restart the server, by themselves."""

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
    """Looks once a second whether files have changed. ``restart`` is set once the server should begin anew.

    ``config_files`` need not exist. ``plugins`` are folders of Python code, or modules.
    """

    def __init__(self, config_files: Sequence[Path], plugins: Sequence[Path]) -> None:
        self.restart = False
        self._config_files = tuple(config_files)
        self._plugins = tuple(plugins)

    async def run(self, reload: Callable[[], None], stop: Callable[[], None]) -> None:
        """Call ``reload`` at each change of the config, ``stop`` at the first of a plugin; runs until then."""
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
        """Return when each file was changed; blocking."""
        return dict(_changed_at(self._config_files)), dict(_changed_at(_modules(self._plugins)))


def _modules(plugins: Sequence[Path]) -> Iterator[Path]:
    for path in plugins:
        yield from path.rglob("*.py") if path.is_dir() else (path,)


def _changed_at(paths: Sequence[Path] | Iterator[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        try:
            yield os.fspath(path), path.stat().st_mtime_ns
        except FileNotFoundError:  # being written anew, or not there: that is a state too
            yield os.fspath(path), 0
