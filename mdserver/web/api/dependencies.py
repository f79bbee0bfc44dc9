"""What the HTTP routes need from the rest of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs

from ...feed.broker_state import BrokerState
from ...metrics import Metrics
from ...model import Instrument, Published, RecordType, Topic
from ...plugin import Lake
from ...store.store import Store

__all__ = ["Dependencies", "SourceInfo"]


@attrs.frozen
class SourceInfo:
    """A configured source of records.

    ``candles_from`` is the record type that its candles are made from by default. ``symbols`` and ``types`` are those
    that the config makes it stream: they are known before the first record. ``synthetic``: its prices are made up.
    """

    name: str
    candles_from: RecordType = "tick"
    symbols: tuple[str, ...] = ()
    types: tuple[RecordType, ...] = ()
    synthetic: bool = False


async def _no_lake() -> None:
    return None


@attrs.frozen
class Dependencies:
    """Everything that the HTTP routes use.

    ``store`` is None if storing is switched off. ``sources`` are in the order of the config, brokers before history
    sources. ``ready`` returns the reasons why the server is not ready, without addresses and secrets; none means ready.
    ``flush_s`` is how old a forming candle may be. A closed candle is final only after ``settle_s``: until then late
    records or the repair of a gap may change it. ``answer_s`` bounds the work on a request; together with the time that
    the database needs to cancel a query it is below the timeout of usual proxies. ``last`` returns the newest record of
    a topic that was published since the start. ``listed`` returns what a broker's venue lists, by symbol; nothing for a
    source that is no broker. ``lake`` returns the data lake, None if there is none or its plugin cannot be used.
    """

    store: Store | None
    broker_states: Callable[[], Sequence[BrokerState]]
    sources: Callable[[], Sequence[SourceInfo]]
    ready: Callable[[], Sequence[str]]
    metrics: Metrics
    now_us: Callable[[], int]
    flush_s: float = 0.25
    settle_s: float = 86_400.0
    answer_s: float = 8.0
    last: Callable[[Topic], Published | None] = lambda _: None
    allowed_origins: Callable[[], Sequence[str]] = tuple
    listed: Callable[[str], Mapping[str, Instrument]] = lambda broker: {}
    lake: Callable[[], Awaitable[Lake | None]] = _no_lake
