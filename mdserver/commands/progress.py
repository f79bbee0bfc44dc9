"""Show the progress of a command on standard error: a bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from ..plugin import Progress

__all__ = ["show_progress"]

LINE_EVERY_S = 10.0


class _OnTerminal:
    def __init__(self, bar: Bar, label: str, total: float | None) -> None:
        self._bar = bar
        self._task = bar.add_task(label, total=total)

    def advance(self, count: float = 1.0) -> None:
        self._bar.advance(self._task, count)

    def notice(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)


class _Lines:
    def __init__(self, label: str, total: float | None, clock: Callable[[], float]) -> None:
        self._label = label
        self._of = "" if total is None else f" of {total:,g}"
        self._done = 0.0
        self._clock = clock
        self._printed_s = clock()

    def advance(self, count: float = 1.0) -> None:
        self._done += count
        if self._clock() - self._printed_s >= LINE_EVERY_S:
            self._printed_s = self._clock()
            click.echo(f"{self._label}: {self._done:,g}{self._of}", err=True)

    def notice(self, text: str) -> None:
        click.echo(text, err=True)


@contextmanager
def show_progress(
    label: str, total: float | None, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """Show the progress of the block; see :meth:`mdserver.plugin.CommandContext.progress`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(label, total, clock)
        return
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()
    with Bar(*columns, console=console, transient=True) as bar:
        yield _OnTerminal(bar, label, total)
