"""Show the progress of an import on standard error: a bar on a terminal, else a line per chunk."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

__all__ = ["ImportProgress"]


class ImportProgress:
    """Counts hours and ticks. Use it as a context."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._total = 0
        self._hours = 0
        self._ticks = 0
        self._failed = 0
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, total: int) -> None:
        """Begin to show the progress of ``total`` hours."""
        self._began = self._clock()
        self._total = total
        if self._console.is_terminal and total:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),  # whatever is left of the width: the numbers come first
                TextColumn("{task.completed:,.0f} of {task.total:,.0f} hours{task.fields[speed]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("importing", total=total, speed="")
            self._bar.start()

    def advance(self, symbol: str, span: str, hours: int, ticks: int, failed: int = 0) -> None:
        """Count a chunk of ``symbol``, ``failed`` hours of it; ``span`` is its first and last hour, as text.

        Speed and time left are shown once an hour has come: how fast hours fail says nothing about the rest.
        """
        self._hours += hours
        self._ticks += ticks
        spent_s = max(self._clock() - self._began, 1e-9)
        self._failed += failed
        speed = f", {self._failed:,} failed" if self._failed else ""
        if (came := self._hours - self._failed) > 0:
            left_s = spent_s * (self._total - self._hours) / came
            speed += f", {self._ticks / spent_s:,.0f} ticks/s, {timedelta(seconds=round(left_s))} left"
        if self._bar is not None:
            self._bar.update(self._task, advance=hours, description=symbol, speed=speed)
            return
        click.echo(
            f"{symbol} {span}: {ticks:,} ticks in {hours} hours; "
            f"{self._hours:,} of {self._total:,} hours{speed}",
            err=True,
        )

    def notice(self, text: str) -> None:
        """Print a line for the operator, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)
