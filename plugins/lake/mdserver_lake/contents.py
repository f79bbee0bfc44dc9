"""What lies in the lake, by listing it; where listing is not permitted, by what may be asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

from .bucket import Bucket, Denied
from .layout import KINDS, Kind, Place, day_of, days_between, place_of, prefix
from .selection import Report, Selection

__all__ = ["UNLISTED", "list_or_none", "list_places", "places_to_try"]

UNLISTED = (
    "the lake does not permit listing: only what the ledger knows, or is asked for by name, can be found"
)

_FOLDERS: tuple[tuple[Kind, str], ...] = (
    *(("tick", "tick"), ("trade", "trade")),
    *(("candle", "tick"), ("candle", "trade")),
)
"""The kinds of objects, with the type of their records."""


async def list_places(
    bucket: Bucket, selection: Selection, kinds: Iterable[Kind] = KINDS
) -> dict[Place, int]:
    """Return what is selected of the lake, with the sizes in bytes. Raises Denied where listing is not permitted."""
    found: dict[Place, int] = {}
    for kind, type_ in _FOLDERS:
        if kind not in kinds:
            continue
        for folder in await _folders(bucket, selection, kind, type_):
            for one in await bucket.objects(folder):
                place = place_of(one.key)
                if place is not None and selection.has(place):
                    found[place] = one.size_bytes
    return found


async def _folders(bucket: Bucket, selection: Selection, kind: Kind, type_: str) -> list[str]:
    """Return the smallest folders that hold what is selected."""
    if not selection.symbols and selection.broker is None:
        return [prefix(kind, type_)]
    brokers = [selection.broker]
    if selection.broker is None:
        brokers = [one.removeprefix("broker=") for one in await bucket.folders(prefix(kind, type_))]
    symbols = selection.symbols or (None,)
    return [prefix(kind, type_, broker, symbol) for broker in brokers for symbol in symbols]


def places_to_try(
    selection: Selection, brokers: Sequence[str], kinds: Iterable[Kind], *, now_us: int
) -> list[Place] | None:
    """Return the names to ask for one by one; None where the selection does not say which."""
    if not selection.symbols or selection.first is None:
        return None
    last: date = day_of(now_us) if selection.last is None else selection.last
    chosen = [selection.broker] if selection.broker is not None else brokers
    return [
        Place(kind, broker, symbol, type_, day)
        for kind, type_ in _FOLDERS
        if kind in kinds
        for broker in chosen
        for symbol in selection.symbols
        for day in days_between(selection.first, last)
    ]


async def list_or_none(
    bucket: Bucket, selection: Selection, report: Report, kinds: Iterable[Kind] = KINDS
) -> dict[Place, int] | None:
    """Return what :func:`list_places` does; None, with a notice, where listing is not permitted."""
    try:
        return await list_places(bucket, selection, kinds)
    except Denied:
        report.notice(UNLISTED)
        return None
