"""Questions to history: what is asked, and what the answer means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from .errors import ConnectionFailed, MdserverError, NotAuthenticated, RequestFailed
from .records import BrokerState, Gap, StoredCandle, Tick, Time, Trade, seconds
from .tables import Table

__all__ = [
    "Answer",
    "Asking",
    "Query",
    "brokers",
    "candles",
    "decode_answer",
    "gaps",
    "metadata",
    "records",
    "symbols",
]

MOST_IN_A_PAGE = 10_000
MOST_SYMBOLS = 1_000

_OF_CANDLE = StoredCandle.__struct_fields__

T = TypeVar("T")


class Query(NamedTuple):
    """A GET; parameters that are None are left out."""

    path: str
    parameters: dict[str, Any]


class Answer(NamedTuple):
    """What came back."""

    url: str
    status: int
    content_type: str
    body: bytes


Asking: TypeAlias = Generator[Query, Any, T]
"""Yields queries, is sent the decoded JSON of each, returns the result."""


def decode_answer(answer: Answer) -> Any:
    """Return the JSON of an answer.

    Raises :class:`RequestFailed` or :class:`NotAuthenticated` for a problem that the server tells, and
    :class:`ConnectionFailed` for what no mdserver answers, such as a proxy's page.
    """
    if "json" not in answer.content_type:
        raise _foreign(answer)
    try:
        found = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        raise _foreign(answer) from None
    if answer.status < 400:
        return found
    raise _problem(answer, found)


def _foreign(answer: Answer) -> ConnectionFailed:
    kind = answer.content_type or "no content type"
    return ConnectionFailed(
        f"{answer.url} answered {answer.status} with {kind} in place of JSON: no mdserver, or a proxy before it"
    )


def _problem(answer: Answer, found: Any) -> MdserverError:
    code = found.get("code") if isinstance(found, dict) else None
    if not isinstance(code, str):
        return _foreign(answer)
    message = f"{answer.status} {code}: {found.get('detail') or found.get('title') or ''}"
    if answer.status == 401:
        return NotAuthenticated(message, code)
    return RequestFailed(message, code, answer.status, found.get("param"))


def candles(
    symbol: str, timeframe: str, start: Time, end: Time, options: Mapping[str, Any]
) -> Asking[Table[StoredCandle]]:
    """Ask for candles whose opens lie in [start, end]."""
    query = {"symbol": symbol, "timeframe": timeframe, "from": seconds(start), "to": seconds(end)}
    columns = yield Query("/api/candles", {**query, **options, "format": "columns"})
    return Table(_lists(columns, "/api/candles"), _stored_candle)


def _stored_candle(**values: Any) -> StoredCandle:
    """Return a row of the columns that were asked for."""
    every: dict[str, Any] = dict.fromkeys(_OF_CANDLE)
    return StoredCandle(**every | values)


def records(
    kind: Literal["tick", "trade"],
    symbol: str,
    start: Time,
    end: Time,
    broker: str | None,
    limit: int | None,
) -> Asking[Any]:
    """Ask for ticks or trades in [start, end], page by page, at most ``limit``."""
    row: Callable[..., Any] = Tick if kind == "tick" else Trade
    path = f"/api/{kind}s"
    names = [name for name in row.__struct_fields__ if name not in ("conflated", "snapshot")]  # type: ignore[attr-defined]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    query = {
        "symbol": symbol,
        "from": seconds(start),
        "to": seconds(end),
        "broker": broker,
        "format": "columns",
    }
    cursor: str | None = None
    while limit is None or len(columns["seq"]) < limit:
        most = MOST_IN_A_PAGE if limit is None else min(MOST_IN_A_PAGE, limit - len(columns["seq"]))
        page = yield Query(path, {**query, "limit": most, "cursor": cursor})
        try:
            found, count = page[f"{kind}s"], len(page[f"{kind}s"]["seq"])
            cursor = page["next_cursor"]
            columns["broker"] += [page["broker"]] * count
            columns["symbol"] += [page["symbol"]] * count
        except (KeyError, TypeError):
            raise ConnectionFailed(f"{path} answered something else than a page of {kind}s") from None
        for name in names[2:]:
            columns[name] += found.get(name) or [None] * count
        if cursor is None:
            break
    return Table(columns, row)


def gaps(options: Mapping[str, Any], start: Time | None, end: Time | None) -> Asking[list[Gap]]:
    """Ask where records may be missing."""
    from_s = None if start is None else seconds(start)
    query = {**options, "to": None if end is None else seconds(end), "limit": MOST_IN_A_PAGE}
    found: dict[Gap, None] = {}
    while True:
        page = yield Query("/api/gaps", {**query, "from": from_s})
        some = _convert([{"type": "gap", **one} for one in page["gaps"]], list[Gap], "/api/gaps")
        new = [gap for gap in some if gap not in found]
        found |= dict.fromkeys(new)
        if not page["more"] or not new:
            return list(found)
        from_s = max(gap.from_time for gap in new)


def brokers() -> Asking[list[BrokerState]]:
    """Ask how the brokers are doing."""
    page = yield Query("/api/brokers", {})
    return _convert(page["brokers"], list[BrokerState], "/api/brokers")


def symbols(options: Mapping[str, Any]) -> Asking[list[dict[str, Any]]]:
    """Ask what there is."""
    page = yield Query("/api/symbols", dict(options))
    return _convert(page["symbols"], list[dict[str, Any]], "/api/symbols")


def metadata(symbol: str | None) -> Asking[dict[str, Any]]:
    """Ask what is stored of a symbol, or of all."""
    page = yield Query("/api/metadata", {"symbol": symbol})
    return _convert(page, dict[str, Any], "/api/metadata")


def _convert(value: Any, wanted: type[T], path: str) -> T:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise ConnectionFailed(f"{path} answered something else than expected: {error}") from None


def _lists(value: Any, path: str) -> dict[str, list[Any]]:
    return _convert(value, dict[str, list[Any]], path)
