"""A store of numbers made up in memory, and a client of an app that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np
import pytest
from quart import Response
from quart_trio import QuartTrio

from mdserver.metrics import Metrics
from mdserver.model import US_PER_S, Topic
from mdserver.store.query.read_records import NO_TIME_US, RecordArrays, RecordPage
from mdserver.store.store import MAX_TICKS, CandleColumns, CoverageDay, GapRow, LastingGap, TooManyTicks
from mdserver.stream.live_candles import CandleKey, StoredCandle
from mdserver.timeframes import Timeframe
from mdserver.web.api.dependencies import Dependencies, SourceInfo
from mdserver.web.api.read_context import Reading
from mdserver.web.api.routes import http_routes
from mdserver.web.page.routes import page_routes
from mdserver.web.udf.routes import udf_routes

HOUR = 3_600
DAY = 86_400
T0 = 1_710_892_800
"""2024-03-20, midnight UTC."""


class Series(msgspec.Struct):
    id: int
    broker: str
    symbol: str
    type: str
    row_count: int = 1_000
    earliest_us: int | None = T0 * US_PER_S
    latest_us: int | None = (T0 + DAY) * US_PER_S + 123_456
    hist_v: int = 1
    live_v: int = 1

    @property
    def topic(self) -> Topic:
        return Topic(self.broker, self.symbol, self.type)


@attrs.define
class FakeStore:
    """Serves hourly candles with prices from the series' id and the open, and one record a second.

    ``reads`` lists what was asked. ``fault`` is raised by each call; ``bump`` changes what it serves.
    """

    rows: list[Series]
    reads: list[str] = attrs.field(factory=list)
    fault: Exception | None = None
    shift: float = 0.0
    holes: list[tuple[int, int]] = attrs.field(factory=list)
    missing: set[int] = attrs.field(factory=set)
    open_gaps: dict[int, list[tuple[int, int | None]]] = attrs.field(factory=dict)
    lasting: list[LastingGap] = attrs.field(
        factory=lambda: [LastingGap("kraken", "ETHUSD", "trade", (T0 + 20) * US_PER_S, "disconnected", None)]
    )
    tick_count: int = 5_000_000
    days: list[CoverageDay] = attrs.field(factory=list)
    forming: dict[tuple[str, int, int], StoredCandle] = attrs.field(factory=dict)

    async def series(self, symbol: str | None = None) -> Sequence[Series]:
        self._note("series")
        return [row for row in self.rows if symbol in (None, row.symbol)]

    async def candles(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> CandleColumns:
        self._note("candles")
        row = self._row(series_id)
        times = list(range(from_s, to_s + 1, timeframe_s))
        if row.earliest_us is None or row.latest_us is None:
            times = []
        else:
            first_us, last_us = row.earliest_us, row.latest_us
            times = [t for t in times if first_us < (t + timeframe_s) * US_PER_S and t * US_PER_S <= last_us]
        times = [t for t in times if t not in self.missing]
        return self._columns(series_id, times)

    async def candles_at(self, keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        self._note("candles_at")
        places = {key: (key.symbol, key.timeframe_s, key.open_s) for key in keys}
        return {key: self.forming[place] for key, place in places.items() if place in self.forming}

    def _columns(self, series_id: int, times: list[int], away: float = 0.0) -> CandleColumns:
        price = [series_id + self.shift + (t % DAY) / DAY + away for t in times]
        return CandleColumns(times, price, price, price, price, [12.0 for _ in times], [3 for _ in times])

    async def candles_of(
        self, series: Series, timeframe: Timeframe, from_s: int, to_s: int, side: str | None = None
    ) -> CandleColumns:
        self._note(side or "candles")
        if side is not None and self.tick_count > MAX_TICKS:
            raise TooManyTicks(self.tick_count)
        if series.earliest_us is None or series.latest_us is None:
            return CandleColumns()
        first_s, last_s = timeframe.open_of(series.earliest_us // US_PER_S), series.latest_us // US_PER_S
        opens = timeframe.opens(max(first_s, from_s), min(last_s, to_s)).tolist()
        times = [t for t in opens if t not in self.missing]
        return self._columns(series.id, times, {"bid": -0.25, "ask": 0.25}.get(side or "", 0.0))

    async def candle_days(self, series_ids: Sequence[int]) -> tuple[int, int] | None:
        self._note("candle_days")
        rows = [row for row in self.rows if row.id in series_ids and row.earliest_us is not None]
        if not rows:
            return None
        days = [us // US_PER_S // DAY * DAY for row in rows for us in (row.earliest_us, row.latest_us) if us]
        return min(days), max(days)

    async def newest_prices(self, series: Sequence[Series]) -> dict[int, list[float]]:
        self._note("newest_prices")
        prices = {"EURUSD": [1.08703, 1.1, 2.0], "BTCUSDT": [66_997.97, 7e4]}
        return {one.id: prices.get(one.symbol, [1e-8]) for one in series if one.latest_us is not None}

    async def newest_record(self, series: Series) -> RecordPage:
        if series.latest_us is None:
            return RecordPage([], [], [], {})
        columns = {"bid": [1.08703], "ask": [1.08705], "bid_size": [None], "ask_size": [None]}
        return RecordPage([series.latest_us], [7], [None], columns)

    async def weighted_prices(
        self, series: Series, timeframe: Timeframe, from_s: int, to_s: int, price: str
    ) -> dict[int, float]:
        self._note("weighted_prices")
        if self.tick_count > MAX_TICKS:
            raise TooManyTicks(self.tick_count)
        return dict.fromkeys(timeframe.opens(from_s, to_s).tolist(), series.id + 0.5)

    async def record_arrays(self, series: Series, *span: int, **more: Any) -> RecordArrays:
        page = await self.records(series.id, series.type, *span, **more)
        received = [NO_TIME_US if us is None else us for us in page.received_us]
        columns = {
            name: values if name in ("side", "trade_id") else np.array(values, float)
            for name, values in page.columns.items()
        }
        return RecordArrays(np.array(page.time_us), np.array(page.seq), np.array(received), columns)

    async def records(
        self,
        series_id: int,
        type_: str,
        from_us: int,
        to_us: int,
        *,
        after: tuple[int, int] | None,
        limit: int,
    ) -> RecordPage:
        self._note(f"{type_}s")
        places = self._places(series_id, from_us, to_us, after, limit)
        columns: dict[str, list[Any]]
        if type_ == "tick":
            columns = {
                "bid": [1.0 + seq / 1_000 for _, seq in places],
                "ask": [2.0 for _ in places],
                "bid_size": [1e6 for _ in places],
                "ask_size": [None for _ in places],
            }
        else:
            columns = {
                "price": [100.5 for _ in places],
                "size": [0.25 for _ in places],
                "side": ["buy" if seq % 2 else None for _, seq in places],
                "trade_id": [f'id,"{seq}"' if seq % 2 else None for _, seq in places],
            }
        return RecordPage(
            [us for us, _ in places],
            [seq for _, seq in places],
            [us + 250_000 if seq % 2 == 0 else None for us, seq in places],
            columns,
        )

    async def is_settled(self, series_id: int, first_us: int, last_us: int) -> bool:
        self._note("is_settled")
        return all(first_us > last or last_us < first for first, last in self.holes)

    async def lasting_gaps(self, last_us: int, **chosen: Any) -> list[LastingGap]:
        assert chosen.get("symbols") is chosen.get("brokers") is None
        return [
            row
            for row in self.lasting
            if chosen["symbol"] in (None, row.symbol)
            and chosen["broker"] in (None, row.broker)
            and row.from_us <= last_us
        ]

    async def days_in_lake(self, series_ids: Sequence[int], table: str, first_us: int, last_us: int) -> None:
        """None of them lies there."""

    async def coverage(self, series_ids: Sequence[int], first_s: int, end_s: int) -> list[CoverageDay]:
        self._note("coverage")
        return [day for day in self.days if day.series_id in series_ids and first_s <= day.day_s < end_s]

    async def missing_times(
        self, series_id: int, first_us: int, last_us: int, *, limit: int
    ) -> list[tuple[int, int | None]]:
        self._note("gaps")
        found = self.open_gaps.get(series_id, [])
        return [
            (first, last) for first, last in found if first <= last_us and (last is None or last >= first_us)
        ]

    async def gaps(self, first_us: int, last_us: int, **chosen: Any) -> list[GapRow]:
        self._note("gaps")
        limit = chosen.pop("limit")
        row = GapRow(
            1, 1, "binance", "BTCUSDT", "trade", T0 * US_PER_S, T0 * US_PER_S + 500_000, "missed", 3, "open"
        )
        other = GapRow(
            2,
            2,
            "oanda",
            "EURUSD",
            "tick",
            (T0 + 9) * US_PER_S,
            (T0 + 10) * US_PER_S,
            "restart",
            None,
            "filled",
        )
        if "series_id" in chosen:
            found = await self.missing_times(chosen["series_id"], first_us, last_us, limit=limit)
            return [
                GapRow(9, chosen["series_id"], "", "", "tick", first, last or last_us, "missed", None, "open")
                for first, last in found
            ]
        wanted = {key: value for key, value in chosen.items() if value is not None}
        assert wanted.keys() <= {"symbol", "broker", "state"}, "no site here has keys"
        return [
            one
            for one in (row, other)
            if one.to_us >= first_us
            and one.from_us <= last_us
            and all(getattr(one, key) == value for key, value in wanted.items())
        ][:limit]

    def _note(self, what: str) -> None:
        self.reads.append(what)
        if self.fault is not None:
            raise self.fault

    def _row(self, series_id: int) -> Series:
        nothing = Series(0, "", "", "tick", row_count=0, earliest_us=None, latest_us=None)
        return next((row for row in self.rows if row.id == series_id), nothing)

    def _places(
        self, series_id: int, from_us: int, to_us: int, after: tuple[int, int] | None, limit: int
    ) -> list[tuple[int, int]]:
        row = self._row(series_id)
        places = [(row.earliest_us + (seq // 2) * US_PER_S, seq) for seq in range(1, row.row_count + 1)]
        places = [
            place for place in places if from_us <= place[0] <= to_us and (after is None or place > after)
        ]
        return places[:limit]


async def no_stream() -> Response:
    raise AssertionError("nothing streams here")


class Site:
    """An app with its fakes."""

    def __init__(self, rows: list[Series], **services: Any) -> None:
        self.store = FakeStore(rows)
        self.metrics = Metrics()
        self.not_ready: list[str] = []
        self.states: list[Any] = []
        self.sources = [SourceInfo("binance", "trade"), SourceInfo("oanda", "tick")]
        self.now_s = T0 + 30 * DAY
        given: dict[str, Any] = {
            "store": self.store,
            "broker_states": lambda: self.states,
            "sources": lambda: self.sources,
            "ready": lambda: self.not_ready,
            "metrics": self.metrics,
            "now_us": lambda: self.now_s * US_PER_S,
        }
        app = QuartTrio("site")
        reading = Reading(Dependencies(**(given | services)))
        app.register_blueprint(http_routes(reading, no_stream))
        app.register_blueprint(udf_routes(reading))
        app.register_blueprint(page_routes())
        self.app = app
        self.client = app.test_client()

    async def get(self, path: str, **headers: str) -> Any:
        """Return the response to a GET; header names are written with ``_``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=named)

    async def raw(self, method: str, path: str, **headers: str) -> tuple[int, Any, bytes]:
        """Return status, headers and body as the server gave them: ``get`` completes the headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(path, method=method, headers=named) as connection:
            await connection.send_complete()
        return connection.status_code, connection.headers, bytes(connection.response_data)

    async def problem(self, path: str) -> dict[str, Any]:
        """Return the problem document that a GET must end in."""
        response = await self.get(path)
        assert response.content_type == "application/problem+json"
        document: dict[str, Any] = await response.get_json(force=True)
        assert document["status"] == response.status_code
        assert set(document) >= {"type", "title", "status", "detail", "code", "param"}
        return document


@pytest.fixture
def rows() -> list[Series]:
    """Two brokers with EURUSD quotes, one of them with trades too; imported quotes of XAUUSD."""
    return [
        Series(1, "oanda", "EURUSD", "tick"),
        Series(2, "binance", "EURUSD", "tick", latest_us=(T0 + 2 * DAY) * US_PER_S),
        Series(3, "binance", "EURUSD", "trade"),
        Series(4, "dukascopy", "XAUUSD", "tick"),
    ]


@pytest.fixture
def make_site(rows: list[Series]) -> Callable[..., Site]:
    return lambda **services: Site(rows, **services)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def hours() -> str:
    """A path that asks for the first ten hours: closed long ago."""
    return f"/api/candles?symbol=EURUSD&timeframe=1h&from={T0}&to={T0 + 9 * HOUR}"
