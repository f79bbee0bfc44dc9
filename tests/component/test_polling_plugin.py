"""A plugin of another shape than ours passes the conformance suite."""

from mdserver.testing import conformance_tests

from .polling_plugin import case

test_conformance = conformance_tests(case)
