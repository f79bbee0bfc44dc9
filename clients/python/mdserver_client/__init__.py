"""Client of mdserver: live records that survive restarts of the server, and history as data frames.

``async with connect(url) as client`` works under asyncio and trio; ``open_sync(url)`` needs no event loop. Times are
Unix seconds, UTC; wherever a time is taken, an aware ``datetime`` or an ISO 8601 text is too.
"""

from ._client import Client, connect
from ._stream import Stream
from ._sync import SyncClient, open_sync
from .errors import (
    ConnectionFailed,
    MdserverError,
    NotAuthenticated,
    ProtocolViolation,
    Refused,
    RequestFailed,
)
from .messages import RefusedResult, Status
from .records import BrokerState, Candle, Gap, OrderBook, Position, Record, StoredCandle, Tick, Time, Trade
from .tables import Table

__all__ = [
    "BrokerState",
    "Candle",
    "Client",
    "ConnectionFailed",
    "Gap",
    "MdserverError",
    "NotAuthenticated",
    "OrderBook",
    "Position",
    "ProtocolViolation",
    "Record",
    "Refused",
    "RefusedResult",
    "RequestFailed",
    "Status",
    "StoredCandle",
    "Stream",
    "SyncClient",
    "Table",
    "Tick",
    "Time",
    "Trade",
    "connect",
    "open_sync",
]
