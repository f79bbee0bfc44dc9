import pytest

from mdserver_binance import BinanceConfig, plugin


def test_defaults_name_the_public_venue() -> None:
    config = BinanceConfig()
    assert config.url == "wss://stream.binance.com:9443"
    assert config.rest_url == "auto"
    assert config.rest_base == "https://api.binance.com"
    assert plugin.config is BinanceConfig


@pytest.mark.parametrize("url", ["wss://data-stream.binance.vision", "ws://127.0.0.1:9/base"])
def test_good_urls(url: str) -> None:
    assert BinanceConfig(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "stream.binance.com",
        "https://stream.binance.com",
        "wss://",
        "wss://host:99999",
        "wss://host:0",
        "wss://host:x",
        "wss://host/?streams=a",
        "wss://user@host",
        "wss://ho st",
        7,
    ],
)
def test_bad_urls_name_field_value_and_expectation(url: object) -> None:
    with pytest.raises(ValueError, match=r"^url: .*expected wss:// or ws:// and a host") as caught:
        BinanceConfig(url=url)  # type: ignore[arg-type]
    assert repr(url) in str(caught.value)


def test_rest_url_is_checked_too() -> None:
    with pytest.raises(ValueError, match="rest_url: 'ftp://x'; expected https:// or http://"):
        BinanceConfig(rest_url="ftp://x")


@pytest.mark.parametrize("settings", [{"trades": "trades"}, {"silence_s": 0.5}, {"silence_s": 1e9}])
def test_bad_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        BinanceConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "rest_url", "base"),
    [
        ("wss://stream.binance.com", "auto", "https://api.binance.com"),
        ("wss://data-stream.binance.vision:443", "auto", "https://data-api.binance.vision"),
        ("wss://stream.binance.us:9443", "auto", "https://api.binance.us"),
        ("wss://Stream.Testnet.Binance.Vision", "auto", "https://testnet.binance.vision"),
        ("ws://127.0.0.1:9", "auto", None),
        ("wss://stream.binance.com.example.org", "auto", None),
        ("wss://stream.binance.com", None, None),
        ("ws://127.0.0.1:9", "http://127.0.0.1:8/", "http://127.0.0.1:8"),
    ],
)
def test_the_rest_address_that_belongs_to_the_stream(
    url: str, rest_url: str | None, base: str | None
) -> None:
    assert BinanceConfig(url=url, rest_url=rest_url).rest_base == base
