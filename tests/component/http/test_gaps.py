"""``GET /api/gaps``."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import T0

GAPS = [
    {
        "broker": "binance",
        "symbol": "BTCUSDT",
        "record_type": "trade",
        "from": T0,
        "to": T0 + 0.5,
        "cause": "missed",
        "size": 3,
        "state": "open",
    },
    {
        "broker": "oanda",
        "symbol": "EURUSD",
        "record_type": "tick",
        "from": T0 + 9,
        "to": T0 + 10,
        "cause": "restart",
        "size": None,
        "state": "filled",
    },
    {
        "broker": "kraken",
        "symbol": "ETHUSD",
        "record_type": "trade",
        "from": T0 + 20,
        "to": None,
        "cause": "disconnected",
        "size": None,
        "state": "open",
    },
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", GAPS),
        ("?symbol=eur/usd", GAPS[1:2]),
        ("?broker=binance", GAPS[:1]),
        ("?state=open", GAPS[::2]),
        (f"?from={T0 + 1}", GAPS[1:]),
        (f"?to={T0 + 1}", GAPS[:1]),
        ("?state=permanent", []),
    ],
)
async def test_gaps_are_chosen(site: Any, query: str, expected: list[dict[str, Any]]) -> None:
    assert await (await site.get("/api/gaps" + query)).get_json() == {"gaps": expected, "more": False}


async def test_a_limit_that_leaves_some_out_says_so(site: Any) -> None:
    assert await (await site.get("/api/gaps?limit=1")).get_json() == {"gaps": GAPS[:1], "more": True}


@pytest.mark.parametrize(
    "query", ["state=shut", "limit=0", "limit=10001", "from=9&to=8", "symbol=!", "since=1", "broker=%00"]
)
async def test_faults_are_named(site: Any, query: str) -> None:
    response = await site.get(f"/api/gaps?{query}")
    assert (response.status_code, (await response.get_json())["param"]) == (400, query.split("=")[0])
