"""Encode columns as JSON (rows or columns) or CSV, a piece at a time: a year of minutes must not delay the streams.

Numbers look as in the streams: a whole number is written without ``.0``. A value that the venue did not give is left
out (JSON rows), null (JSON columns) or empty (CSV).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import StringIO
from typing import Any, Literal, TypeAlias

import attrs
import msgspec
import trio

from ...kinds import ColumnForm, StoredAs
from ...model import US_PER_S
from ...protocol.times import TIMES, ShownTime, Times

__all__ = [
    "FORMATS",
    "Body",
    "Column",
    "Format",
    "build_body",
    "candle_row",
    "digest_of",
    "joined_bodies",
    "row_type",
    "seconds",
    "shown_opens",
    "shown_times",
    "without_fraction",
]

Format: TypeAlias = Literal["json", "csv", "columns", "arrow"]

FORMATS: tuple[Format, ...] = ("json", "csv", "columns", "arrow")

PIECE_ROWS = 1_000
"""How many rows are encoded before other tasks get a turn: half a millisecond as JSON, two as CSV."""

_SEND_BYTES = 1 << 20  # pieces are joined up to this size for sending

_DIGEST_BYTES = 16


ArrowForm: TypeAlias = Literal["float", "int", "text", "bool", "time_s", "time_us"]
"""How a column is written as Arrow. Times become timestamps of microseconds, UTC; None becomes null."""


@attrs.frozen
class Column:
    """Values of one field, and the function that formats them, which is applied a piece at a time too.

    As Arrow the values themselves are written, in ``form``; they may be a numpy array then, with NaN for null.
    """

    values: Any
    show: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    form: ArrowForm = "float"

    def piece(self, start: int) -> Sequence[Any]:
        """Return one piece, formatted."""
        values: Sequence[Any] = self.values[start : start + PIECE_ROWS]
        return values if self.show is None else self.show(values)


@cache
def candle_row(fields: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return the struct of a candle in ``/api/candles`` with these fields."""
    return msgspec.defstruct("CandleRow", [(name, Any) for name in fields], gc=False)


@cache
def row_type(stored: StoredAs) -> type[msgspec.Struct]:
    """Return the struct of a record in ``/api/ticks`` or ``/api/trades``; values that were not given are left out."""
    types: dict[ColumnForm, Any] = {
        "price": float,
        "size": float | None,
        "code": str | None,
        "text": str | None,
    }
    fields: list[Any] = [("seq", int), ("time", float | str)]
    for column in stored.columns:
        default = () if column.form == "price" else (None,)
        fields.append((column.name, types[column.form], *default))
    fields.append(("received", float | str | None, None))
    return msgspec.defstruct(f"Row_{stored.table}", fields, gc=False, omit_defaults=True)


def arrow_pieces(names: Sequence[str], columns: Sequence[Column], piece_bytes: int) -> Iterator[bytes]:
    """Yield a table as a stream of Arrow record batches; see :mod:`.arrow`. Blocking."""
    from .arrow import stream_of  # the extra may be missing

    return stream_of(names, [(column.form, column.values) for column in columns], piece_bytes)


@attrs.frozen
class Body:
    """The bytes of an answer, uncompressed, with their digest and the headers that were computed with them."""

    pieces: list[bytes]
    size: int
    digest: str
    headers: dict[str, str] = attrs.field(factory=dict)


def shown_times(times: Times) -> Callable[[Sequence[int | None]], list[ShownTime | None]]:
    """Return what writes times given in microseconds; None stays None."""
    show = TIMES[times]
    return lambda column_us: [None if us is None else show(us) for us in column_us]


def shown_opens(times: Times) -> Callable[[Sequence[int]], Sequence[ShownTime]] | None:
    """Return what writes times given in whole seconds; None: they are written as they are."""
    show = TIMES[times]
    return None if times == "s" else lambda column_s: [show(time_s * US_PER_S) for time_s in column_s]


def digest_of(data: bytes) -> str:
    """Return the digest that ETags are made from."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def without_fraction(column: Sequence[float | None]) -> list[float | None]:
    """Return the column with whole numbers as int, so that they are written without ``.0``."""
    return [int(value) if value is not None and value.is_integer() else value for value in column]


def seconds(column_us: Sequence[int]) -> list[float]:
    """Return times in Unix seconds, exact to the microsecond."""
    return [us // US_PER_S if us % US_PER_S == 0 else us / US_PER_S for us in column_us]


async def build_body(
    row: type[msgspec.Struct],
    columns: Sequence[Column],
    form: Format,
    *,
    before: bytes = b"",
    after: bytes = b"",
    turn: trio.CapacityLimiter | None = None,
) -> Body:
    """Encode a table; ``columns`` are in the order of the fields of ``row`` and of one length.

    ``before`` and ``after`` surround the table in JSON. Other tasks run between the pieces. But each pass of the event
    loop encodes one piece of every table in progress, so ``turn`` bounds the number of tables.
    """
    if turn is not None:
        async with turn:
            return await build_body(row, columns, form, before=before, after=after)
    if form == "arrow":
        # nothing is shared with the thread, so a cancelled request need not wait for it
        return await trio.to_thread.run_sync(_arrow_body, row, columns, abandon_on_cancel=True)
    pieces: list[bytes] = []
    size = 0
    pending = bytearray()
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for piece in _encoded(row, columns, form, before, after):
        digest.update(piece)
        size += len(piece)
        pending += piece
        if len(pending) >= _SEND_BYTES:
            pieces.append(bytes(pending))
            pending.clear()
        await trio.lowlevel.checkpoint()
    pieces.append(bytes(pending))
    return Body(pieces, size, digest.hexdigest())


def _arrow_body(row: type[msgspec.Struct], columns: Sequence[Column]) -> Body:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    pieces = list(arrow_pieces(row.__struct_fields__, columns, _SEND_BYTES))
    for piece in pieces:
        digest.update(piece)
    return Body(pieces, sum(map(len, pieces)), digest.hexdigest())


def joined_bodies(bodies: Mapping[str, Body]) -> Body:
    """Return JSON bodies as one object, each under its name; the headers are left to the caller."""
    pieces: list[bytes] = []
    for place, (name, body) in enumerate(bodies.items()):
        pieces += [(b"," if place else b"{") + msgspec.json.encode(name) + b":", *body.pieces]
    pieces.append(b"}" if bodies else b"{}")
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for piece in pieces:
        digest.update(piece)
    return Body(pieces, sum(map(len, pieces)), digest.hexdigest())


def _encoded(
    row: type[msgspec.Struct], columns: Sequence[Column], form: Format, before: bytes, after: bytes
) -> Iterator[bytes]:
    if form == "csv":
        return _csv(row, columns)
    if form == "columns":
        return _json_columns(row, columns, before, after)
    return _json(row, columns, before, after)


def _pieces(columns: Sequence[Column]) -> Iterator[list[Sequence[Any]]]:
    for start in range(0, len(columns[0].values), PIECE_ROWS):
        yield [column.piece(start) for column in columns]


def _json(
    row: type[msgspec.Struct], columns: Sequence[Column], before: bytes, after: bytes
) -> Iterator[bytes]:
    lead = before + b"["
    for part in _pieces(columns):
        yield lead + msgspec.json.encode([row(*values) for values in zip(*part, strict=True)])[1:-1]
        lead = b","
    yield (b"" if lead == b"," else lead) + b"]" + after


def _json_columns(
    row: type[msgspec.Struct], columns: Sequence[Column], before: bytes, after: bytes
) -> Iterator[bytes]:
    lead = before + b"{"
    for name, column in zip(row.__struct_fields__, columns, strict=True):
        lead += b'"' + name.encode() + b'":['
        for (part,) in _pieces([column]):
            yield lead + msgspec.json.encode(part)[1:-1]
            lead = b","
        yield (b"" if lead == b"," else lead) + b"]"
        lead = b","
    yield b"}" + after


def _csv(row: type[msgspec.Struct], columns: Sequence[Column]) -> Iterator[bytes]:
    yield ",".join(row.__struct_fields__).encode() + b"\n"
    truths = [place for place, column in enumerate(columns) if column.form == "bool"]
    for part in _pieces(columns):
        for place in truths:  # as in JSON, not as in Python
            part[place] = ["true" if value else "false" for value in part[place]]
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(zip(*part, strict=True))
        yield text.getvalue().encode()
