"""The conformance suite: checks that a plugin meets the server's requirements, run against its fake venue.

A plugin defines in its module ``conformance`` how to open its fake venue, and its settings::

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
