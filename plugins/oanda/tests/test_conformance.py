"""The conformance suite on this plugin: a test for each check of the scorecard."""

from mdserver.testing import conformance_tests
from mdserver_oanda.conformance import case

test_conformance = conformance_tests(case)
