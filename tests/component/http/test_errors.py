"""Requests that cannot be answered, and how they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from mdserver.errors import StoreUnavailable

T0 = 1_710_892_800
GOOD = {"symbol": "EURUSD", "timeframe": "1h", "from": str(T0), "to": str(T0 + 3_600)}


def path(**changed: str | None) -> str:
    query = GOOD | {name.rstrip("_"): value for name, value in changed.items()}
    return "/api/candles?" + "&".join(f"{name}={value}" for name, value in query.items() if value is not None)


@pytest.mark.parametrize("name", ["symbol", "from", "to"])
@pytest.mark.parametrize("value", [None, ""])
async def test_missing(site: Any, name: str, value: str | None) -> None:
    problem = await site.problem(path(**{name: value}))
    assert (problem["status"], problem["code"], problem["param"]) == (400, "missing_parameter", name)


@pytest.mark.parametrize("name", ["from_", "to"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("abc", "is not a number"),
        ("-1", "is negative"),
        ("nan", "is not a number"),
        ("inf", "is not a number"),
        ("1e9", "is not a number"),
        ("0x10", "is not a number"),
        ("1_000", "is not a number"),
        ("%D9%A3", "is not a number"),
        ("2024-03-20", "looks like a date"),
        ("2024-03-20T00:00:00Z", "looks like a date"),
        ("1710892800000", "looks like milliseconds; give seconds: 1710892800 (= 2024-03-20T00:00:00Z)"),
        ("1710892800000000", "looks like microseconds; give seconds: 1710892800"),
        ("1710892800000000000", "looks like nanoseconds; give seconds: 1710892800"),
        ("9" * 14, "looks like milliseconds"),
        ("1" * 40, "is too large"),
        ("1" * 5_000, "is not a number"),
    ],
)
async def test_times(site: Any, name: str, value: str, said: str) -> None:
    problem = await site.problem(path(**{name: value}))
    assert (problem["status"], problem["code"]) == (400, "invalid_parameter")
    assert problem["param"] == name.rstrip("_")
    assert said in problem["detail"]
    assert len(problem["detail"]) < 300


async def test_reversed_range(site: Any) -> None:
    problem = await site.problem(path(from_=str(T0 + 1), to=str(T0)))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "from")
    assert f"no later than to={T0}" in problem["detail"]


async def test_unknown_timeframe_lists_them(site: Any) -> None:
    for problem in (
        await site.problem(path(timeframe="7m")),
        await site.problem(f"/api/candles/EURUSD/5h?from={T0}&to={T0}"),
    ):
        assert (problem["status"], problem["code"], problem["param"]) == (
            400,
            "unknown_timeframe",
            "timeframe",
        )
        assert "minutes or hours that divide a day (1m, 3m, 90m, 4h), 1d, 1w or 1M" in problem["detail"]


async def test_range_too_large(site: Any) -> None:
    first = T0 - T0 % 60
    assert (
        await site.get(path(timeframe="1m", from_=str(first), to=str(first + 60 * 999_999)))
    ).status_code == 200
    problem = await site.problem(path(timeframe="1m", from_=str(first), to=str(first + 60 * 1_000_000)))
    assert (problem["status"], problem["code"]) == (400, "range_too_large")
    assert "1000001 candles of 1m" in problem["detail"]
    assert "at most 1000000" in problem["detail"]


async def test_unknown_and_repeated_parameters(site: Any) -> None:
    problem = await site.problem(path(form="1"))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "form")
    assert "known: symbol, symbols, timeframe, from, to, broker, price, format" in problem["detail"]
    problem = await site.problem(path() + "&to=5")
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "to")
    problem = await site.problem(f"/api/candles/EURUSD/1h?from={T0}&to={T0}&symbol=EURUSD")
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "symbol")
    problem = await site.problem("/api/openapi.json?x=1")
    assert "known: none" in problem["detail"]


async def test_long_input_is_shown_shortened(site: Any) -> None:
    for where in (path(**{"x" * 5_000: "y"}), path(broker="b" * 5_000), "/api/" + "n" * 5_000):
        assert len((await site.problem(where))["detail"]) < 300


async def test_impossible_symbol(site: Any) -> None:
    problem = await site.problem(path(symbol="EUR;drop"))
    assert (problem["status"], problem["code"], problem["param"]) == (400, "invalid_parameter", "symbol")


@pytest.mark.parametrize(
    ("symbol", "hint"),
    [("EURUSDT", "did you mean EURUSD?"), ("ZZZ", "known symbols: EURUSD, XAUUSD")],
)
@pytest.mark.parametrize("where", ["/api/candles/{}/1h?from=0&to=1", "/api/metadata?symbol={}"])
async def test_unknown_symbol(site: Any, where: str, symbol: str, hint: str) -> None:
    problem = await site.problem(where.format(symbol))
    assert (problem["status"], problem["code"], problem["param"]) == (404, "unknown_symbol", "symbol")
    assert hint in problem["detail"]


async def test_unknown_symbol_while_nothing_is_stored(site: Any, rows: Any) -> None:
    rows.clear()
    assert "nothing is stored yet" in (await site.problem(path()))["detail"]


async def test_unknown_broker_says_which_have_the_symbol(site: Any) -> None:
    problem = await site.problem(path(broker="kraken"))
    assert (problem["status"], problem["code"], problem["param"]) == (404, "unknown_symbol", "broker")
    assert "these have: binance, oanda" in problem["detail"]


@pytest.mark.parametrize("price", ["x", "Bid", "bid,ask"])
async def test_unknown_price(site: Any, price: str) -> None:
    problem = await site.problem(path(price=price))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "price")
    assert problem["detail"].endswith("expected one of mid, bid, ask, trade")


async def test_sides_of_too_many_ticks(site: Any) -> None:
    """The mid candles of the same range are there for the asking; nothing is read for those of a side."""
    site.store.tick_count += 1
    problem = await site.problem(path(broker="oanda", price="ask"))
    assert (problem["status"], problem["code"], problem["param"]) == (400, "range_too_large", "to")
    assert (
        "ask candles are computed from the ticks once, and 5000001 are still to be read" in problem["detail"]
    )
    assert "at most 5000000" in problem["detail"]
    assert site.store.reads == ["series", "is_settled", "ask"]
    assert (await site.get(path(broker="oanda", price="mid"))).status_code == 200


async def test_price_that_is_not_stored_says_what_there_is(site: Any) -> None:
    problem = await site.problem(path(broker="oanda", price="trade"))
    assert (problem["status"], problem["code"], problem["param"]) == (400, "invalid_parameter", "price")
    assert "no trades of EURUSD are stored; available: oanda: mid" in problem["detail"]


@pytest.mark.parametrize("where", ["/api", "/api/", "/api/nothing", "/api/candles/EURUSD", "/nothing"])
async def test_unknown_path(site: Any, where: str) -> None:
    problem = await site.problem(where)
    assert (problem["status"], problem["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods(site: Any, method: str) -> None:
    response = await site.client.open("/api/candles", method=method)
    assert response.status_code == 405
    assert response.content_type == "application/problem+json"
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert (await response.get_json(force=True))["code"] == "method_not_allowed"


async def test_database_away(site: Any, hours: str) -> None:
    site.store.fault = StoreUnavailable("connection to 10.0.0.9 refused")
    with capture_logs() as logs:
        response = await site.get(hours)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    problem = await response.get_json(force=True)
    assert problem["code"] == "unavailable"
    assert "10.0.0.9" not in problem["detail"]
    assert "10.0.0.9" in logs[0]["error"]
    site.store.fault = StoreUnavailable("later", retry_after_s=11.2)
    with capture_logs():
        assert (await site.get(hours)).headers["Retry-After"] == "12"


async def test_storing_switched_off(make_site: Callable[..., Any], hours: str) -> None:
    site = make_site(store=None)
    for where in (hours, "/api/metadata", f"/api/ticks?symbol=EURUSD&from={T0}&to={T0}"):
        problem = await site.problem(where)
        assert (problem["status"], problem["code"]) == (503, "unavailable")
    assert (await site.get("/api/brokers")).status_code == 200


@pytest.mark.parametrize("fault", [RuntimeError("secret"), ExceptionGroup("several", [KeyError("secret")])])
async def test_failure_is_logged_and_not_shown(site: Any, hours: str, fault: Exception) -> None:
    site.store.fault = fault
    with capture_logs() as logs:
        response = await site.get(hours)
    assert response.status_code == 500
    problem = await response.get_json(force=True)
    assert problem["code"] == "internal"
    assert "secret" not in str(problem)
    assert response.headers["Cache-Control"] == "no-store"
    (entry,) = logs
    assert (entry["log_level"], entry["path"]) == ("error", "/api/candles")
    assert isinstance(entry["exc_info"], Exception)


async def test_failure_of_another_part_of_the_app_is_a_problem_too(site: Any) -> None:
    @site.app.get("/page")
    async def page() -> str:
        raise RuntimeError("secret")

    response = await site.get("/page")
    assert response.status_code == 500
    assert (await response.get_json(force=True))["code"] == "internal"
