"""What a question to history brings: columns, which become rows or a data frame when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .records import Gap, Tick

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    import polars

__all__ = ["Table"]

Row = TypeVar("Row")


class Table(Sequence[Row], Generic[Row]):
    """Rows of one kind, kept as ``columns``: a list for each field, all of one length.

    As a sequence it gives typed rows. Times are Unix seconds in ``columns`` and rows, UTC datetimes in data frames.
    """

    def __init__(self, columns: Mapping[str, list[Any]], make_row: Callable[..., Row]) -> None:
        self.columns: dict[str, list[Any]] = dict(columns)
        self._make_row = make_row

    @classmethod
    def of(cls, records: Iterable[Row | Gap]) -> Table[Row]:
        """Make a table of what a stream gave: records of one type; gaps are left out.

        Raises ValueError where there are several types: each is a table of its own.
        """
        rows: list[Any] = [record for record in records if not isinstance(record, Gap)]
        types = {type(row) for row in rows}
        if len(types) > 1:
            found = ", ".join(sorted(one.__name__ for one in types))
            raise ValueError(f"records: expected one type, got {found}")
        kind: Any = types.pop() if types else Tick
        names = [name for name in kind.__struct_fields__ if name not in ("conflated", "snapshot")]
        return cls({name: [getattr(row, name) for row in rows] for name in names}, kind)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[Row]:
        names = tuple(self.columns)
        for values in zip(*self.columns.values(), strict=True):
            yield self._make_row(**dict(zip(names, values, strict=True)))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Table[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Table[Row]:
        if isinstance(index, slice):
            return Table({name: values[index] for name, values in self.columns.items()}, self._make_row)
        return self._make_row(**{name: values[index] for name, values in self.columns.items()})

    def __repr__(self) -> str:
        return f"<Table of {len(self)} rows: {', '.join(self.columns)}>"

    def to_polars(self) -> polars.DataFrame:
        """Return a polars data frame; needs ``pip install 'mdserver-client[polars]'``."""
        import polars

        frame = polars.DataFrame(self.columns, infer_schema_length=None)
        times = [name for name in ("time", "received") if name in frame.columns]
        microseconds = [
            (polars.col(name).cast(polars.Float64) * 1e6).round().cast(polars.Int64) for name in times
        ]
        utc = polars.Datetime("us", "UTC")
        return frame.with_columns(
            [
                column.cast(polars.Datetime("us")).dt.replace_time_zone("UTC").cast(utc)
                for column in microseconds
            ]
        )

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas data frame with the time as its index; needs ``pip install 'mdserver-client[pandas]'``."""
        import pandas

        frame = pandas.DataFrame(self.columns)
        for name in ("time", "received"):
            if name in frame:
                microseconds = (frame[name].astype("float64") * 1e6).round().astype("Int64")
                frame[name] = pandas.to_datetime(microseconds, unit="us", utc=True)
        return frame.set_index("time") if "time" in frame else frame
