"""What the operator may set, and what a wrong setting says."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.plugin import API_VERSION
from mdserver_mock import MockBroker, MockConfig, plugin


def test_defaults_make_a_descriptor_that_works() -> None:
    assert plugin.api_version == API_VERSION
    assert isinstance(plugin.factory(plugin.config()), MockBroker)


@pytest.mark.parametrize(
    "settings", [{"rate": 0}, {"rate": 100_000}, {"burst": 10_000}, {"seed": 0}, {"step_bps": 100}]
)
def test_the_limits_are_allowed(settings: dict[str, Any]) -> None:
    MockConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -1}, "rate: found -1, expected a number from 0 to 100000 records/s"),
        ({"rate": 100_001}, "rate: found 100001, expected a number"),
        ({"rate": float("nan")}, "rate: found nan, expected a number"),
        ({"rate": "max"}, "rate: found 'max', expected a number"),
        ({"rate": True}, "rate: found True, expected a number"),
        ({"burst": 0}, "burst: found 0, expected an integer from 1 to 10000"),
        ({"burst": 1.5}, "burst: found 1.5, expected an integer"),
        ({"seed": -1}, "seed: found -1, expected an integer from 0"),
        ({"step_bps": 0}, "step_bps: found 0, expected a number from 0.001 to 100 basis points"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MockConfig(**settings)
