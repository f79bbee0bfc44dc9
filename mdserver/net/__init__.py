"""Network clients for plugins: a fast WebSocket reader and a small HTTP GET, with the server's errors."""

from ..backoff import Backoff
from .http import RETRY_STATUSES, fetch, status_error
from .websocket import WebSocket, WebSocketClosed, open_websocket

__all__ = [
    "RETRY_STATUSES",
    "Backoff",
    "WebSocket",
    "WebSocketClosed",
    "fetch",
    "open_websocket",
    "status_error",
]
