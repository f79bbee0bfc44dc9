"""``times`` on every route of ours that shows times: the same moments, written otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mdserver.feed.broker_state import BrokerState, SessionError, State, StateChange
from mdserver.protocol.times import TIMES
from mdserver.store.store import CoverageDay
from mdserver.stream.live_candles import StoredCandle
from mdserver.web.api.openapi import openapi_document

from .test_openapi import validator

T0 = 1_710_892_800
DAY, US = 86_400, 1_000_000
SHOWN = frozenset(("time", "from", "to", "earliest", "latest", "since", "last_event"))
ROUTES = {
    "/api/metadata": ["", "symbol=EURUSD"],
    "/api/gaps": [""],
    "/api/symbols": [""],
    "/api/snapshot": ["symbols=EURUSD"],
    "/api/coverage": [f"symbol=EURUSD&from={T0}&to={T0}"],
    "/api/brokers": [""],
}


@pytest.fixture
def full(site: Any) -> Any:
    """A site that has something of everything."""
    at = 1_710_892_800.5
    site.states = [
        BrokerState(
            "oanda", "oanda", State.LIVE, at, 1, "no", at, 1, 1, {},
            (SessionError(at, "unavailable", "no"),), (StateChange(at, State.LIVE, "connected"),),
        )
    ]  # fmt: skip
    site.store.days.append(CoverageDay(1, T0, 5, 1, 0, 0))
    now_s = site.now_s
    site.store.forming = {
        ("EURUSD", length, now_s // length * length): StoredCandle(1.0, 1.0, 1.0, 1.0, 1.0, 1)
        for length in (60, DAY)
    }
    return site


def moments(node: Any) -> Iterator[Any]:
    """Yield every time in a document, in order."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in SHOWN and not isinstance(value, dict | list):
                yield value
            else:
                yield from moments(value)
    elif isinstance(node, list):
        for one in node:
            yield from moments(one)


@pytest.mark.parametrize("times", [name for name in TIMES if name != "s"])
@pytest.mark.parametrize(
    ("path", "query"), [(path, query) for path, some in ROUTES.items() for query in some]
)
async def test_times_are_written_as_asked_for(full: Any, path: str, query: str, times: str) -> None:
    plain = await (await full.get(f"{path}?{query}")).get_json()
    response = await full.get(f"{path}?{query}&times={times}")
    assert response.status_code == 200, await response.get_data()
    shown = await response.get_json()
    in_seconds = list(moments(plain))
    assert any(moment is not None for moment in in_seconds)
    expected = [None if one is None else TIMES[times](round(one * US)) for one in in_seconds]  # type: ignore[index]
    assert list(moments(shown)) == expected
    answer = openapi_document()["paths"][path]["get"]["responses"]["200"]
    validator(answer["content"]["application/json"]["schema"]).validate(shown)


@pytest.mark.parametrize("path", ROUTES)
async def test_another_way_to_write_times_is_refused(full: Any, path: str) -> None:
    problem = await full.problem(f"{path}?{ROUTES[path][-1]}&times=ns")
    assert (problem["status"], problem["param"]) == (400, "times")
    assert "expected one of s, ms, us, iso" in problem["detail"]
