"""The candles of a day of records, as the database would make them. Pure."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from ..candles import all_timeframes, candles_of_prices, prices_of_ticks, prices_of_trades
from ..model import US_PER_S, CandleRow, RecordColumns

__all__ = ["candles_of_day"]


def candles_of_day(records: RecordColumns) -> list[CandleRow]:
    """Return the candles of every timeframe of a day of ticks or trades, in the order (timeframe, time)."""
    series = np.zeros(len(records.time_us), np.int64)
    values = records.values
    at = series, records.time_us, records.seq
    if "price" in values:
        prices = prices_of_trades(*at, values["price"], values["size"])
    else:
        prices = prices_of_ticks(*at, values["bid"], values["ask"], values["bid_size"], values["ask_size"])
    return [
        CandleRow(
            timeframe_s,
            time_s * US_PER_S,
            *(open_, high, low, close),
            Decimal(whole) + Decimal(fraction).scaleb(-8),
            row_count,
        )
        for timeframe_s, level in sorted(all_timeframes(candles_of_prices(prices)).items())
        for time_s, open_, high, low, close, whole, fraction, row_count in zip(
            *(column.tolist() for column in level[1:]), strict=True
        )
    ]
