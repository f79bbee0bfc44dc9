"""The conformance suite on this plugin: a test for each check of the scorecard."""

import pytest

from mdserver.testing import conformance_tests
from mdserver_lake.conformance import case

pytestmark = pytest.mark.slow

test_conformance = conformance_tests(case)
