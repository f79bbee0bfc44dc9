"""Network clients for plugins: a fast WebSocket reader and a small HTTP GET, with the server's errors."""

from .http import RETRY_STATUSES, fetch, status_error
from .websocket import WebSocket, WebSocketClosed, open_websocket

__all__ = [
    "RETRY_STATUSES",
    "WebSocket",
    "WebSocketClosed",
    "fetch",
    "open_websocket",
    "status_error",
]
