"""Network clients for plugins, with the server's errors: a fast WebSocket client, pooled and streaming HTTP GETs."""

from ..backoff import Backoff
from .http import AnswerTooLarge, HttpAnswer, HttpClient, fetch, open_http
from .http_errors import RETRY_STATUSES, HttpRefused, HttpUnavailable, is_web_page, status_error
from .http_stream import HttpStream, open_http_stream
from .long_poll import unless_changed
from .websocket import WebSocket, WebSocketClosed, open_websocket

__all__ = [
    "RETRY_STATUSES",
    "AnswerTooLarge",
    "Backoff",
    "HttpAnswer",
    "HttpClient",
    "HttpRefused",
    "HttpStream",
    "HttpUnavailable",
    "WebSocket",
    "WebSocketClosed",
    "fetch",
    "is_web_page",
    "open_http",
    "open_http_stream",
    "open_websocket",
    "status_error",
    "unless_changed",
]
