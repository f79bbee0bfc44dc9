"""Every route of the OpenAPI document with parameters of any form: an answer that is described, never a failure."""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdserver.web.api.openapi import openapi_document

GOOD = (
    "EURUSD",
    "eur/usd",
    "XAUUSD",
    "1h",
    "1m",
    "0",
    "1710892800",
    "1710900000",
    "oanda",
    "binance",
    "5",
    "csv",
)
ODD = (
    "",
    "-1",
    "1e400",
    "NaN",
    "9" * 400,
    "*",
    ",",
    "%00",
    "\x00",
    "币安",
    "a" * 5_000,
    "1710892800000",
    "../..",
    "'",
    "{}",
)

values = st.one_of(st.sampled_from(GOOD), st.sampled_from(GOOD), st.sampled_from(ODD), st.text(max_size=30))
# what cannot stand in a URL is not the routes' business
texts = values.map(lambda text: text.encode(errors="replace").decode())


def test_no_parameters_make_a_route_fail(make_site: Any, *, long: bool) -> None:
    paths = {
        path: item["get"]
        for path, item in openapi_document()["paths"].items()
        if path != "/api/stream" and "get" in item
    }
    site = make_site()

    async def ask(path: str, described: dict[str, Any], url: str) -> None:
        response = await site.get(url)
        status = str(response.status_code)
        assert status != "500", url
        if "{" not in path:  # else the path itself may be of no route
            assert status in described["responses"], (url, status)
        if response.status_code >= 400:
            assert set(json.loads(await response.get_data())) >= {"type", "title", "status", "detail", "code"}

    @settings(
        max_examples=5_000 if long else 150,
        deadline=None,
        database=None,
        derandomize=not long,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(paths)))
        described = paths[path]
        query, url = [], path
        for parameter in described["parameters"]:
            if parameter["in"] == "path":
                url = url.replace("{%s}" % parameter["name"], quote(data.draw(texts), safe=""))  # noqa: UP031
            elif parameter["in"] == "query" and data.draw(st.booleans()):
                allowed = parameter["schema"].get("enum")
                drawn = st.sampled_from([str(one) for one in allowed]) if allowed else texts
                query.append((parameter["name"], data.draw(st.one_of(drawn, texts))))
        if data.draw(st.integers(0, 9)) == 0:
            query.append((data.draw(texts), data.draw(texts)))
        trio.run(partial(ask, path, described, f"{url}?{urlencode(query)}"))

    check()
