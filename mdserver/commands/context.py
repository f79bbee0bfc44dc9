"""What a command plugin gets as ``ctx.obj``: the config, loaded when first asked for, and a way into trio."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import trio

from ..config import Config, load_config, secret_values
from ..log import get_logger, set_up_logging
from ..plugin import BrokerPlugin, HistoryPlugin
from ..redact import hide_values
from ..registry import PluginProblem, load_brokers, load_history, stand_in

__all__ = ["CommandContext"]

T = TypeVar("T")


class CommandContext:
    """One invocation of ``mdserver``.

    ``config_file`` is asked when the config is first needed, since ``--config`` may stand after a command's
    name; it returns None if no file was named.
    """

    def __init__(self, config_file: Callable[[], Path | None] = lambda: None) -> None:
        self._config_file = config_file
        self.log = get_logger("mdserver")

    @cached_property
    def _loaded(self) -> tuple[dict[str, BrokerPlugin], list[PluginProblem]]:
        return load_brokers()

    @cached_property
    def _loaded_history(self) -> tuple[dict[str, HistoryPlugin], list[PluginProblem]]:
        return load_history()

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
        """The usable plugins, and for each that cannot be used one that fails with the reason."""
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
    def config(self) -> Config:
        """The checked config; from the first use on, logging follows it. Raises ConfigError."""
        classes: dict[str, type | None] = {problem.name: None for problem in self.problems}
        classes |= {name: plugin.config for name, plugin in self.brokers.items()}
        sources: dict[str, type | None] = {problem.name: None for problem in self.history_problems}
        sources |= {name: plugin.config for name, plugin in self.history.items()}
        config = load_config(
            self._config_file(),
            environ=os.environ,
            brokers=classes,
            history=sources,
            broker_types={name: plugin.types for name, plugin in self.brokers.items()},
        )
        hide_values(secret_values(config))
        set_up_logging(config.log)
        for problem in (*self.problems, *self.history_problems):
            self.log.warning(
                "plugin cannot be used",
                plugin=problem.name,
                distribution=problem.distribution,
                problem=problem.message,
            )
        return config

    def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``work(*args)`` in trio to its end and return its result; what it raises comes out."""
        return trio.run(partial(work, *args))
