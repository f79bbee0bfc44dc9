"""The conformance suite: what a server needs of a plugin, tried on the plugin and its fake venue.

A plugin says in its module ``conformance`` how to open its fake venue and what its settings are::

    class AcmeCase(WebSocketCase[FakeAcme]):
        plugin = plugin
        symbols = ("EURUSD", "GBPUSD")

        def open_venue(self):
            return open_fake_venue(FakeAcme())

        async def send(self, venue, feed):
            return venue.next_price(feed.symbol)

    case = AcmeCase()

and in its tests ``test_conformance = conformance_tests(case)``. ``mdserver plugins test acme`` prints the scorecard.
"""

from .cases import BrokerCase, CommandCase, ConformanceCase, HistoryCase, HttpCase, WebSocketCase
from .find import CONFORMANCE_GROUP, find_case
from .scorecard import Failed, NotApplicable, Row, Scorecard
from .suite import check_names, conformance_tests, run_check, run_suite

__all__ = [
    "CONFORMANCE_GROUP",
    "BrokerCase",
    "CommandCase",
    "ConformanceCase",
    "Failed",
    "HistoryCase",
    "HttpCase",
    "NotApplicable",
    "Row",
    "Scorecard",
    "WebSocketCase",
    "check_names",
    "conformance_tests",
    "find_case",
    "run_check",
    "run_suite",
]
