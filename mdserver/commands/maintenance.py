"""What the commands that maintain the database share: opening it, symbols, dates, output for people."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import click

from ..config import Config
from ..log import get_logger
from ..model import TIMEFRAMES, US_PER_S
from ..store.connection.database import Database
from ..store.open_database import open_configured
from ..symbols import canonical

__all__ = [
    "format_size",
    "json_option",
    "open_for_maintenance",
    "print_status",
    "symbol_option",
    "table",
    "to_us",
]

DAY_US = TIMEFRAMES["1d"] * US_PER_S

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _symbol(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else canonical(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


symbol_option = click.option("--symbol", metavar="SYMBOL", callback=_symbol, help="Only this symbol.")


@asynccontextmanager
async def open_for_maintenance(config: Config) -> AsyncIterator[Database]:
    """Open the configured database without a statement timeout. Raises as ``open_configured`` does."""
    log = get_logger("mdserver")
    async with open_configured(config.database, config.data_dir, statement_timeout_s=0, log=log) as database:
        yield database


def print_status(text: str) -> None:
    """Print what is being done, but only to a person at a terminal."""
    if sys.stderr.isatty():
        click.echo(text, err=True)


def to_us(day: datetime | None, *, days: int = 0) -> int | None:
    """Return midnight UTC of a date, ``days`` later, in microseconds; None for None."""
    return None if day is None else round(day.replace(tzinfo=UTC).timestamp()) * US_PER_S + days * DAY_US


def format_size(size_bytes: float) -> str:
    """Return a size for people: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} TB"


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned columns under a heading; numbers are aligned to the right."""
    texts = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(len(row[n]) for row in texts) for n in range(len(heading))]
    right = [all(isinstance(row[n], int | float) for row in rows) and bool(rows) for n in range(len(heading))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    )
