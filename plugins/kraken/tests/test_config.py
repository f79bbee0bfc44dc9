"""The settings, by themselves: what is wrong is named with its value and what was expected."""

import pytest

from mdserver_kraken import KrakenConfig, plugin


def test_the_defaults_are_kraken() -> None:
    config = KrakenConfig()
    assert (config.url, config.rest_url) == ("wss://ws.kraken.com/v2", "https://api.kraken.com")
    assert plugin.config is KrakenConfig


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        (
            "url",
            "https://ws.kraken.com/v2",
            r"url: 'https://ws.kraken.com/v2'; expected wss:// or ws:// and a host",
        ),
        ("url", "wss://", r"url: 'wss://'; expected"),
        ("url", 7, r"url: 7 is no text"),
        ("url", "wss://host:port/", r"url: .*; expected"),
        ("url", "wss://user@host/", r"has a query, fragment or user"),
        ("url", "wss://host/?a=b", r"has a query, fragment or user"),
        ("url", "wss://host/a b", r"holds a space"),
        ("rest_url", "wss://api.kraken.com", r"rest_url: .*; expected https:// or http://"),
        ("silence_s", 1, r"silence_s"),
        ("silence_s", 3601, r"silence_s"),
    ],
)
def test_what_is_wrong_is_named(setting: str, value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        KrakenConfig(**{setting: value})  # type: ignore[arg-type]
