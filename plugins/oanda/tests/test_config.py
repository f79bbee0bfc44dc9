"""The settings: what is taken and what is refused, and that the key is not shown."""

import pytest

from mdserver_oanda import OandaConfig, plugin

ACCOUNT, KEY = "101-004-1234567-001", "0123456789abcdef-s3cret"


def test_the_defaults_are_the_practice_environment() -> None:
    config = OandaConfig(ACCOUNT, KEY)
    assert config.url == "https://stream-fxpractice.oanda.com"
    assert config.rest_url == "https://api-fxpractice.oanda.com"
    assert config.silence_s == 10.0, "two heartbeats"
    assert KEY not in repr(config)


@pytest.mark.parametrize("field", ["url", "rest_url"])
@pytest.mark.parametrize(
    "value",
    ["", "oanda.com", "ws://x", "https://", "https://a b", "https://x:0", "https://x:99999", "https://x/?a=1",
     "https://u@x", "https://[x", "https://x#f", 7, None],
)  # fmt: skip
def test_urls_that_are_none(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}: .*expected https:// or http://"):
        OandaConfig(ACCOUNT, KEY, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "101 004", "../x", "1?x", 7, None])
def test_accounts_that_are_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"account_id: .*such as 101-004-1234567-001"):
        OandaConfig(value, KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", f"{KEY} x", f"{KEY}\n", f"{KEY}é", 7, None])
def test_keys_that_cannot_be_sent_are_not_shown(value: object) -> None:
    with pytest.raises(ValueError, match="api_key: expected the access token") as caught:
        OandaConfig(ACCOUNT, value)  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, 601.0, float("nan")])
def test_silence_is_bounded(value: float) -> None:
    with pytest.raises(ValueError, match="silence_s"):
        OandaConfig(ACCOUNT, KEY, silence_s=value)


def test_the_descriptor() -> None:
    assert (plugin.name, plugin.types, plugin.config) == ("oanda", ("tick",), OandaConfig)
    assert plugin.factory(OandaConfig(ACCOUNT, KEY))
