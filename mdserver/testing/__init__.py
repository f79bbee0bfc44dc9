"""Public fakes and the conformance suite: third-party plugins are tested like our own, over real sockets.

* :mod:`.host`: the server's side of a broker plugin
* :mod:`.conformance`: the server's requirements for a plugin, as checks with a scorecard
* :mod:`.websocket_venue`: a generic WebSocket venue, the base for a fake of your own, with faults on demand
* :mod:`.http_venue`: the same over HTTP: routes, streams to push to, faults on demand
* :mod:`.binance`: a venue that speaks Binance's spot streams
* :mod:`.oanda`: a venue that speaks OANDA's v20 price stream and REST API
* :mod:`.kraken`: a venue that speaks Kraken's v2 stream and its public REST API
* :mod:`.dukascopy`: a venue that serves recorded ticks, with faults on demand; :mod:`.bi5`: its encoders
* :mod:`.recorded`: readers for files of recorded frames
"""

from .conformance import BrokerCase, CommandCase, HistoryCase, HttpCase, WebSocketCase, conformance_tests
from .host import FakeDemand, FakeHost
from .http_venue import FakeExchange, FakeHttpVenue, HttpAnswer, HttpFault, HttpRequest, open_fake_http
from .websocket_venue import FakeClient, FakeWebSocketVenue, open_fake_venue

__all__ = [
    "BrokerCase",
    "CommandCase",
    "FakeClient",
    "FakeDemand",
    "FakeExchange",
    "FakeHost",
    "FakeHttpVenue",
    "FakeWebSocketVenue",
    "HistoryCase",
    "HttpAnswer",
    "HttpCase",
    "HttpFault",
    "HttpRequest",
    "WebSocketCase",
    "conformance_tests",
    "open_fake_http",
    "open_fake_venue",
]
