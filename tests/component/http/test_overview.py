"""Metadata, brokers, health, metrics, CORS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mdserver.feed.broker_state import BrokerState, SessionError, State, StateChange

T0 = 1_710_892_800
DAY = 86_400
TIMEFRAMES = ["1m", "5m", "15m", "30m", "1h", "4h", "12h", "1d"]


async def test_metadata_of_a_symbol(site: Any, rows: Any) -> None:
    rows[0].row_count = 7
    document = await (await site.get("/api/metadata?symbol=eur/usd")).get_json()
    assert document == {
        "symbol": "EURUSD",
        "earliest": T0,
        "latest": T0 + 2 * DAY,
        "tick_count": 1_007,
        "trade_count": 1_000,
        "timeframes": TIMEFRAMES,
        "brokers": [
            {
                "broker": "binance",
                "earliest": T0,
                "latest": T0 + 2 * DAY,
                "tick_count": 1_000,
                "trade_count": 1_000,
            },
            {
                "broker": "oanda",
                "earliest": T0,
                "latest": T0 + DAY + 0.123456,
                "tick_count": 7,
                "trade_count": 0,
            },
        ],
    }


async def test_metadata_of_all(site: Any) -> None:
    response = await site.get("/api/metadata")
    document = await response.get_json()
    assert [row["symbol"] for row in document["symbols"]] == ["EURUSD", "XAUUSD"]
    assert document["symbols"][1] == {
        "symbol": "XAUUSD",
        "earliest": T0,
        "latest": T0 + DAY + 0.123456,
        "tick_count": 1_000,
        "trade_count": 0,
    }
    assert document["timeframes"] == TIMEFRAMES
    assert site.store.reads == ["series"]
    again = await site.get("/api/metadata", If_None_Match=response.headers["ETag"])
    assert again.status_code == 304


async def test_metadata_before_anything_is_stored(site: Any, rows: Any) -> None:
    rows.clear()
    assert await (await site.get("/api/metadata")).get_json() == {"symbols": [], "timeframes": TIMEFRAMES}


async def test_brokers(site: Any) -> None:
    site.states = [
        BrokerState(
            "binance",
            "binance",
            State.BACKOFF,
            1.5,
            3,
            "connection refused",
            None,
            2,
            1,
            {"EURUSD tick": "no such symbol"},
            (SessionError(1.5, "unavailable", "connection refused"),),
            (StateChange(1.5, State.BACKOFF, "next attempt in 4 s: connection refused"),),
        )
    ]
    assert await (await site.get("/api/brokers")).get_json() == {
        "brokers": [
            {
                "broker": "binance",
                "plugin": "binance",
                "state": "backoff",
                "since": 1.5,
                "attempt": 3,
                "last_error": "connection refused",
                "last_event": None,
                "feeds": 2,
                "active": 1,
                "refused": {"EURUSD tick": "no such symbol"},
                "errors": [{"time": 1.5, "outcome": "unavailable", "message": "connection refused"}],
                "changes": [
                    {
                        "time": 1.5,
                        "state": "backoff",
                        "message": "next attempt in 4 s: connection refused",
                    }
                ],
            }
        ]
    }


async def test_health(site: Any) -> None:
    assert (await site.get("/health/live")).status_code == 200
    assert await (await site.get("/health/ready")).get_json() == {"status": "ready"}
    site.not_ready = ["the database is away since 12 s", "broker oanda failed"]
    problem = await site.problem("/health/ready")
    assert (problem["status"], problem["code"]) == (503, "unavailable")
    assert problem["reasons"] == site.not_ready
    assert (await site.get("/health/live")).status_code == 200


async def test_metrics_count_answers_by_route(site: Any, hours: str) -> None:
    for where in (hours, hours, "/api/candles/EURUSD/1h?from=5&to=1", "/nothing", "/nothing-else"):
        await site.get(where)
    response = await site.get("/metrics")
    assert response.content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(await response.get_data(as_text=True))
    counts = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "mdserver_http_requests_total"
    }
    assert counts == {
        ("/api/candles", "200"): 2,
        ("/api/candles/<path:symbol>/<timeframe>", "400"): 1,
        ("unmatched", "404"): 2,
    }


async def test_no_other_origin_by_default(site: Any, hours: str) -> None:
    response = await site.get(hours, Origin="https://a.example")
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_named_origins_may_read(make_site: Callable[..., Any], hours: str) -> None:
    site = make_site(allowed_origins=lambda: ("https://a.example", "https://b.example"))
    response = await site.get(hours, Origin="https://b.example")
    assert response.headers["Access-Control-Allow-Origin"] == "https://b.example"
    assert "X-Broker" in response.headers["Access-Control-Expose-Headers"]
    assert "Origin" in response.vary
    for headers in ({"Origin": "https://c.example"}, {}):
        other = await site.get(hours, **headers)
        assert "Access-Control-Allow-Origin" not in other.headers
        assert "Origin" in other.vary
    not_modified = await site.get(hours, Origin="https://a.example", If_None_Match=response.headers["ETag"])
    assert not_modified.status_code == 304
    assert not_modified.headers["Access-Control-Allow-Origin"] == "https://a.example"
    error = await site.get("/api/nothing", Origin="https://a.example")
    assert error.headers["Access-Control-Allow-Origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("origins", "allowed"), [(("*",), "*"), (("https://a.example",), "https://a.example")]
)
async def test_preflight(make_site: Callable[..., Any], origins: tuple[str, ...], allowed: str) -> None:
    site = make_site(allowed_origins=lambda: origins)
    response = await site.client.options(
        "/api/candles", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == allowed
    assert "If-None-Match" in response.headers["Access-Control-Allow-Headers"]
