"""One invocation of ``mdserver``: the object that a command gets as ``ctx.obj``, and the source of the config."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypeVar

import attrs
import trio

from ..config import Config, LogConfig, load_config, read_plugin_folders, secret_values
from ..errors import ConfigError
from ..log import get_logger, set_up_logging
from ..plugin import BrokerPlugin, CommandDatabase, HistoryPlugin, Progress
from ..redact import hide_values
from ..registry import PluginProblem, load_brokers, load_history, stand_in
from .few_arenas import share_arenas

__all__ = ["ConfigFile", "Invocation", "Overrides"]

T = TypeVar("T")

IN_CURRENT_FOLDER = Path("config.yaml")


@attrs.frozen
class ConfigFile:
    """A config file, and what named it: ``--config``, ``MDSERVER_CONFIG`` or ``current folder``."""

    path: Path
    named_by: Literal["--config", "MDSERVER_CONFIG", "current folder"]


@attrs.frozen
class Overrides:
    """Options of the command line that take precedence over the config file."""

    host: str | None = None
    port: int | None = None
    data_dir: Path | None = None
    allow_anonymous: bool | None = None
    role: Literal["all", "ingest", "edge"] | None = None

    def apply(self, config: Config) -> Config:
        """Return the config with these options applied. Raises ConfigError for an invalid host."""
        server = {name: value for name in ("host", "port") if (value := getattr(self, name)) is not None}
        if self.allow_anonymous is not None:
            server["auth"] = attrs.evolve(config.server.auth, allow_anonymous=self.allow_anonymous)
        folder = config.data_dir if self.data_dir is None else self.data_dir.expanduser().absolute()
        try:
            bus = config.bus if self.role is None else attrs.evolve(config.bus, role=self.role)
        except ValueError:
            raise ConfigError([f"--role {self.role}: expected bus.url in the config"]) from None
        try:
            return attrs.evolve(
                config, data_dir=folder, server=attrs.evolve(config.server, **server), bus=bus
            )
        except ValueError as error:
            raise ConfigError([f"--{error}"]) from None


class Invocation:
    """Implements :class:`mdserver.plugin.CommandContext`.

    ``config_file`` is called only when the config is first needed, since ``--config`` may come after a command's name.
    If it returns None, because no file was named, ``config.yaml`` in the current folder is read if it exists.
    """

    def __init__(self, config_file: Callable[[], ConfigFile | None] = lambda: None) -> None:
        self._named_file = config_file
        self.overrides = Overrides()
        self.is_command = False
        """A user of a command wants its own output: of the log only warnings and errors are shown with it."""
        self.log = get_logger("mdserver")

    @cached_property
    def plugin_folders(self) -> tuple[Path, ...]:
        """The folders whose modules are plugins. They are read from the config first: its rest depends on them."""
        return self.find_plugin_folders()

    def find_plugin_folders(self) -> tuple[Path, ...]:
        """Return them from the config file known so far: ``--config`` may still come after the command's name."""
        file = self._find_config_file()
        return () if file is None else read_plugin_folders(file.path, os.environ)

    @cached_property
    def _loaded(self) -> tuple[dict[str, BrokerPlugin], list[PluginProblem]]:
        return load_brokers(self.plugin_folders)

    @cached_property
    def _loaded_history(self) -> tuple[dict[str, HistoryPlugin], list[PluginProblem]]:
        return load_history(self.plugin_folders)

    @property
    def history(self) -> dict[str, HistoryPlugin]:
        """The history plugins that can be used, by name."""
        return self._loaded_history[0]

    @property
    def brokers(self) -> dict[str, BrokerPlugin]:
        """The broker plugins that can be used, by name."""
        return self._loaded[0]

    @property
    def brokers_for_serving(self) -> dict[str, BrokerPlugin]:
        """The usable plugins, and for each unusable one a stand-in that fails with the reason."""
        return {problem.name: stand_in(problem) for problem in self.problems} | self.brokers

    @property
    def problems(self) -> list[PluginProblem]:
        """The broker plugins that cannot be used."""
        return self._loaded[1]

    @property
    def history_problems(self) -> list[PluginProblem]:
        """The history plugins that cannot be used."""
        return self._loaded_history[1]

    @cached_property
    def config_file(self) -> ConfigFile | None:
        """The file that the config is read from, None where there is none."""
        return self._find_config_file()

    def _find_config_file(self) -> ConfigFile | None:
        named = self._named_file()
        if named is None and IN_CURRENT_FOLDER.exists():
            return ConfigFile(IN_CURRENT_FOLDER.absolute(), "current folder")
        return named

    @cached_property
    def config(self) -> Config:
        """The checked config; its first use also sets up logging accordingly. Raises ConfigError."""
        config = self.load()
        hide_values(secret_values(config))
        set_up_logging(_for_command(config.log) if self.is_command else config.log)
        file = self.config_file
        if file is not None:
            self.log.info("the config is read from a file", file=str(file.path), named_by=file.named_by)
        else:
            self.log.info(
                "no config file found: the defaults apply",
                database="from DATABASE_URL" if config.database.url != "embedded" else "embedded",
            )
        for problem in (*self.problems, *self.history_problems):
            self.log.warning(
                "plugin cannot be used",
                plugin=problem.name,
                distribution=problem.distribution,
                problem=problem.message,
            )
        return config

    def load(self, *, strict: bool = False) -> Config:
        """Read and check the config. Raises ConfigError.

        ``strict``: a broker or source whose plugin is installed but cannot be loaded is an error too. The server does
        not use it: it starts without that plugin.
        """
        file = self.config_file
        config = load_config(
            None if file is None else file.path,
            environ=os.environ,
            brokers=_classes(self.problems, self.brokers),
            history=_classes(self.history_problems, self.history),
            broker_types={name: plugin.types for name, plugin in self.brokers.items()},
            unusable={p.name: str(p) for p in (*self.problems, *self.history_problems)} if strict else {},
        )
        return self.overrides.apply(config)

    def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``work(*args)`` in trio to its end and return its result; what it raises is raised."""
        if self.is_command:
            share_arenas()
        return trio.run(partial(work, *args))

    def progress(self, label: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """See :meth:`mdserver.plugin.CommandContext.progress`."""
        from .progress import show_progress  # imported here: rich is slow to import

        return show_progress(label, total)

    @asynccontextmanager
    async def open_database(
        self, *, write: bool = False, statement_timeout_s: float = 0.0
    ) -> AsyncIterator[CommandDatabase]:
        """See :meth:`mdserver.plugin.CommandContext.open_database`."""
        from .database_access import (
            DatabaseAccess,
            open_configured,
        )  # imported here: the store is slow to import

        config = self.config
        async with open_configured(
            config.database, config.data_dir, statement_timeout_s=statement_timeout_s, log=self.log
        ) as database:
            yield DatabaseAccess(database, write=write)


def _classes(
    problems: Iterable[PluginProblem], plugins: dict[str, BrokerPlugin] | dict[str, HistoryPlugin]
) -> dict[str, type | None]:
    """Return the config class of each installed plugin; None for one that cannot be used."""
    classes: dict[str, type | None] = {problem.name: None for problem in problems}
    return classes | {name: plugin.config for name, plugin in plugins.items()}


def _for_command(log: LogConfig) -> LogConfig:
    """Return the log settings of a command: plain lines, and only warnings and errors unless configured otherwise."""
    return attrs.evolve(
        log,
        format="text" if log.format == "auto" else log.format,
        level="warning" if log.level == "info" else log.level,
    )
