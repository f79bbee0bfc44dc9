"""What a person at a terminal reads once the server serves: where it is, and a line to paste."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from time import time

import click

from .. import __version__
from ..config import Config
from ..log import get_logger
from ..plugin import BrokerPlugin

__all__ = ["Banner", "close_stdout"]

SOME_SYMBOL = "SYMBOL"
"""Stands in the place of a symbol where the config names none."""


class Banner:
    """Prints the addresses when the daemon has started; logs are for the rest. A ``trio.TaskStatus[str]``."""

    def __init__(self, config: Config, plugins: Mapping[str, BrokerPlugin]) -> None:
        self._config = config
        self._plugins = plugins

    def started(self, value: str | None = None) -> None:
        """Print where the server is. A standard output that is closed stops nothing."""
        if value is None:
            return
        try:
            click.echo(self._text(value))
        except OSError as error:
            close_stdout()
            get_logger("mdserver").warning(
                "the addresses cannot be printed: standard output is closed", url=value, error=str(error)
            )

    def _text(self, url: str) -> str:
        symbol, types = self._example()
        stream = f"{url.replace('http', 'ws', 1)}/"
        more = "" if "tick" in types else f" --type {types[0]}"
        now = int(time())
        return (
            f"\nmdserver {__version__} is ready\n\n"
            f"  candles  {url}/api/candles?symbol={symbol}&timeframe=1m&from={now - 3600}&to={now + 86_400}\n"
            f"  symbols  {url}/api/metadata\n"
            f"  brokers  {url}/api/brokers\n"
            f"  stream   {stream}\n\n"
            f"Paste this into another terminal to see live {types[0] if more else 'tick'}s:\n\n"
            f"  {_ourselves()} run watch {symbol} --url {stream}{more}\n\n"
            "Ctrl-C stops the server.\n"
        )

    def _example(self) -> tuple[str, tuple[str, ...]]:
        """Return a symbol that the config has streamed, and the record types that its broker has."""
        for entry in self._config.brokers:
            if entry.enabled:
                types = entry.types or self._plugins[entry.plugin].types
                if entry.symbols:
                    return entry.symbols[0], types
        return SOME_SYMBOL, ("tick",)


def _ourselves() -> str:
    """Return how this program was started, as a shell takes it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m mdserver"
    return shlex.quote(str(program))


def close_stdout() -> None:
    """Drop what is still printed: the reader has gone, and Python would complain of it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
