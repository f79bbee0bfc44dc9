"""The options that the lake commands share: which series and days a command is about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TypeVar

import click

from mdserver.symbols import canonical_all, symbols_of_lines

from .selection import Selection

__all__ = ["as_json", "dry_run", "selecting"]

T = TypeVar("T")

_DATE = click.DateTime(["%Y-%m-%d"])

dry_run = click.option("--dry-run", is_flag=True, help="Only print what would be done.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_OPTIONS = (
    click.option("--symbol", "symbols", multiple=True, metavar="SYMBOL", help="May be repeated."),
    click.option(
        "--symbols-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A text file with a symbol in each line; # begins a comment.",
    ),
    click.option("--broker", metavar="NAME", help="Only this broker or history source."),
    click.option("--days", type=click.IntRange(1, 36_500), help="The last N whole days, up to yesterday."),
    click.option("--from", "first", type=_DATE, metavar="DATE", help="First day, UTC."),
    click.option("--to", "last", type=_DATE, metavar="DATE", help="Last day, inclusive."),
)


def selecting(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that choose series and days; the command gets them as one :class:`Selection`, ``selection``."""

    @wraps(command)
    def chosen(
        *arguments: object,
        symbols: tuple[str, ...],
        symbols_file: Path | None,
        broker: str | None,
        days: int | None,
        first: datetime | None,
        last: datetime | None,
        **rest: object,
    ) -> T:
        names = _symbols(symbols, symbols_file)
        return command(*arguments, selection=_selection(names, broker, days, first, last), **rest)

    for option in reversed(_OPTIONS):
        chosen = option(chosen)
    return chosen


def _symbols(given: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    try:
        found = canonical_all(given)
        if file is not None:
            found += symbols_of_lines(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(str(error) if file is None else f"{file}: {error}") from None
    return tuple(dict.fromkeys(found))


def _selection(
    symbols: tuple[str, ...],
    broker: str | None,
    days: int | None,
    first: datetime | None,
    last: datetime | None,
) -> Selection:
    if days is not None:
        if first is not None or last is not None:
            raise click.UsageError("expected either --days, or --from and --to")
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        return Selection(symbols, broker, yesterday - timedelta(days=days - 1), yesterday)
    if first is not None and last is not None and last < first:
        raise click.UsageError(f"--to {last.date()} is before --from {first.date()}")
    return Selection(
        symbols, broker, None if first is None else first.date(), None if last is None else last.date()
    )
