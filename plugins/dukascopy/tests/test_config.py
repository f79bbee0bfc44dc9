"""What the operator may set, and what a wrong setting says."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.plugin import API_VERSION
from mdserver_dukascopy import DukascopyConfig, open_source, plugin


def test_the_descriptor() -> None:
    assert plugin.api_version == API_VERSION
    assert plugin.name == "dukascopy"
    assert plugin.config is DukascopyConfig
    assert plugin.factory is open_source


def test_a_base_address_may_lack_its_last_slash() -> None:
    config = DukascopyConfig(url="http://127.0.0.1:8000/datafeed", jetta_url="http://[::1]")
    assert (config.url, config.jetta_url) == ("http://127.0.0.1:8000/datafeed/", "http://[::1]/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://x/"}, "url: found 'ftp://x/', expected http:// or https://"),
        ({"url": "https://"}, "url: found"),
        ({"url": "https://host:99999/"}, "url: found"),
        ({"url": "https://user@host/"}, "with a query, fragment or user"),
        ({"jetta_url": "https://host/?a"}, "jetta_url: found 'https://host/\\?a/' with a query"),
        ({"jetta_url": None}, "jetta_url: found None"),
        ({"services": ()}, "services: found \\[\\], expected one or both of datafeed, jetta"),
        ({"services": ("jetta", "jetta")}, "each once"),
        ({"services": ("bi5",)}, "services: found \\['bi5'\\]"),
        ({"user_agent": "a\nb"}, "user_agent: found 'a\\\\nb', expected printable ASCII text"),
        ({"concurrency": 0}, "concurrency: found 0, expected an integer from 1 to 32"),
        ({"concurrency": True}, "concurrency: found True"),
        ({"pause_s": -1}, "pause_s: found -1, expected a number from 0 to 60"),
        ({"timeout_s": float("nan")}, "timeout_s: found nan"),
        ({"timeout_s": 0}, "timeout_s: found 0, expected a number from 0.1 to 600"),
        ({"attempts": 0}, "attempts: found 0"),
        ({"attempts": 1.5}, "attempts: found 1.5"),
        ({"give_up_s": "5"}, "give_up_s: found '5'"),
        ({"down_s": 1e9}, "down_s: found"),
        ({"settle_s": -1}, "settle_s: found"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DukascopyConfig(**settings)
