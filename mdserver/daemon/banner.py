"""The text that a terminal shows once the server is ready: its addresses, and a command to paste."""

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
"""The example symbol if the config names none."""


class Banner:
    """Prints the addresses once the daemon has started. Implements ``trio.TaskStatus[str]``."""

    def __init__(self, config: Config, plugins: Mapping[str, BrokerPlugin]) -> None:
        self._config = config
        self._plugins = plugins

    def started(self, value: str | None = None) -> None:
        """Print the server's addresses. A closed standard output is logged and does not stop the server."""
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
            f"  page     {url}/\n"
            f"  candles  {url}/api/candles?symbol={symbol}&timeframe=1m&from={now - 3600}&to={now + 86_400}\n"
            f"  symbols  {url}/api/metadata\n"
            f"  brokers  {url}/api/brokers\n"
            f"  stream   {stream}\n\n"
            f"Paste this into another terminal to see live {types[0] if more else 'tick'}s:\n\n"
            f"  {_ourselves()} watch {symbol} --url {stream}{more}\n\n"
            "Ctrl-C stops the server.\n"
        )

    def _example(self) -> tuple[str, tuple[str, ...]]:
        """Return a symbol of the config, and the types of records that its broker has."""
        for entry in self._config.brokers:
            if entry.enabled:
                types = entry.types or self._plugins[entry.plugin].types
                if entry.symbols:
                    return entry.symbols[0], types
        return SOME_SYMBOL, ("tick",)


def _ourselves() -> str:
    """Return the command that started this program, quoted for a shell."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m mdserver"
    return shlex.quote(str(program))


def close_stdout() -> None:
    """Discard all further output: its reader has gone, and Python would report that once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
