"""The OpenAPI document says what the routes do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mdserver.web.api import (
    candle_query,
    coverage_view,
    event_stream,
    gaps_view,
    records_view,
    snapshot_view,
    symbols_view,
)
from mdserver.web.api.openapi import openapi_document

T0 = 1_710_892_800
EXAMPLES = {
    "/api/metadata": ["/api/metadata", "/api/metadata?symbol=EURUSD"],
    "/api/candles": [
        f"/api/candles?symbol=EURUSD&timeframe=1h&from={T0}&to={T0 + 7_200}",
        f"/api/candles?symbol=EURUSD&timeframe=1h&from={T0}&to={T0 + 7_200}&format=columns",
        "/api/candles?symbol=EURUSD&timeframe=1h&from=0&to=0&format=columns",
        f"/api/candles?symbols=EURUSD,XAUUSD&timeframe=2h&from={T0}&to={T0 + 14_400}&times=iso&fill=null",
        f"/api/candles?symbols=EURUSD,XAUUSD&timeframe=1w&from={T0}&to={T0 + 700_000}&format=columns",
        f"/api/candles?symbol=EURUSD&from={T0}&to={T0 + 9_000}&fields=complete,broker,vwap,count,time",
    ],
    "/api/candles/{symbol}/{timeframe}": [f"/api/candles/EURUSD/1d?from={T0}&to={T0}"],
    "/api/ticks": [
        f"/api/ticks?symbol=EURUSD&from={T0}&to={T0 + 9}&limit=3{more}" for more in ("", "&format=columns")
    ],
    "/api/trades": [
        f"/api/trades?symbol=EURUSD&from={T0}&to={T0 + 1}{more}" for more in ("", "&format=columns")
    ],
    "/api/gaps": [
        "/api/gaps",
        f"/api/gaps?symbol=EURUSD&broker=oanda&from={T0}&to={T0 + 99}&state=filled&limit=5",
    ],
    "/api/coverage": [f"/api/coverage?symbol=EURUSD&from={T0}&to={T0 + 99}"],
    "/api/brokers": ["/api/brokers"],
    "/api/snapshot": ["/api/snapshot?symbols=EURUSD,XAUUSD"],
    "/api/symbols": ["/api/symbols", "/api/symbols?query=eur/u&type=forex&broker=oanda&limit=1"],
    "/udf/config": ["/udf/config"],
    "/udf/symbols": ["/udf/symbols?symbol=EURUSD", "/udf/symbols?symbol=NOPE"],
    "/udf/symbol_info": ["/udf/symbol_info?group=oanda"],
    "/udf/search": ["/udf/search?query=EUR&limit=30&type=&exchange="],
    "/udf/history": [
        f"/udf/history?symbol=EURUSD&resolution=60&from={T0}&to={T0 + 9_000}",
        "/udf/history?symbol=EURUSD&resolution=1D&from=0&to=9",
    ],
    "/udf/marks": [f"/udf/marks?symbol=EURUSD&resolution=60&from={T0}&to={T0 + 9_000}"],
    "/udf/timescale_marks": [f"/udf/timescale_marks?symbol=EURUSD&resolution=60&from={T0}&to={T0 + 9_000}"],
    "/udf/quotes": ["/udf/quotes?symbols=EURUSD,NOPE"],
    "/api/openapi.json": ["/api/openapi.json"],
    "/health/live": ["/health/live"],
    "/health/ready": ["/health/ready"],
}


@pytest.fixture
def site(site: Any) -> Any:
    """A site with a gap, which is a mark."""
    site.store.open_gaps = {1: [((T0 + 60) * 10**6, (T0 + 90) * 10**6)]}
    return site


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator of a part of the document, which keeps its references."""
    return Draft202012Validator({**schema, "components": openapi_document()["components"]})


def test_every_route_is_described_and_no_other(site: Any) -> None:
    rules = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in site.app.url_map.iter_rules()}
    assert set(openapi_document()["paths"]) == rules - {"/static/{filename}", "/page/{name}"}


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document()
    for reference in references(document):
        _, _, kind, name = reference.split("/")
        assert name in document["components"][kind]


def test_parameters_are_those_that_the_routes_know() -> None:
    paths = openapi_document()["paths"]
    known = {
        "/api/candles": candle_query.QUERY,
        "/api/candles/{symbol}/{timeframe}": [name for name in candle_query.QUERY if name != "symbols"],
        "/api/ticks": records_view.QUERY,
        "/api/trades": records_view.QUERY,
        "/api/gaps": gaps_view.QUERY,
        "/api/snapshot": snapshot_view.QUERY,
        "/api/stream": (*event_stream.QUERY, "Last-Event-ID"),
        "/api/coverage": coverage_view.QUERY,
        "/api/symbols": symbols_view.QUERY,
        "/api/metadata": ("symbol", "times"),
        "/api/brokers": ("times",),
    }
    for path, names in known.items():
        assert sorted(parameter["name"] for parameter in paths[path]["get"]["parameters"]) == sorted(names)


@pytest.mark.parametrize(("path", "url"), [(path, url) for path, urls in EXAMPLES.items() for url in urls])
async def test_answers_have_the_described_shape(site: Any, path: str, url: str) -> None:
    response = await site.get(url)
    described = openapi_document()["paths"][path]["get"]["responses"][str(response.status_code)]
    schema = described["content"][response.content_type]["schema"]
    document = await response.get_json()
    assert document
    validator(schema).validate(document)


@pytest.mark.parametrize(("path", "url"), [(path, url) for path, urls in EXAMPLES.items() for url in urls])
async def test_answers_carry_the_described_headers_and_no_others(site: Any, path: str, url: str) -> None:
    response = await site.get(url)
    described = openapi_document()["paths"][path]["get"]["responses"]
    assert named(response) <= set(described["200"]["headers"])
    assert "Cache-Control" in named(response)
    if "NOPE" not in url:  # UDF's errors have the status 200
        assert ("ETag" in named(response)) == ("ETag" in described["200"]["headers"])
    if "ETag" in response.headers:
        again = await site.get(url, If_None_Match=response.headers["ETag"])
        assert "ETag" in described[str(again.status_code)]["headers"]


def named(response: Any) -> set[str]:
    """Return the headers of an answer that the document has names for, and all of our own."""
    known = {name.lower(): name for name in openapi_document()["components"]["headers"]}
    names = {name.lower() for name, _ in response.headers.items()}
    ours = {name for name in names if name.startswith("x-")} - {"x-content-type-options", "x-frame-options"}
    return {known.get(name, name) for name in names & {*known, *ours}}


def test_operations_have_names_and_every_error_says_when() -> None:
    operations = [item["get"] for item in openapi_document()["paths"].values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        assert operation["tags"]
        for status, answer in operation["responses"].items():
            assert answer["description"] not in ("", "a problem"), (operation["operationId"], status)
        assert "Retry-After" in operation["responses"].get("429", {"headers": ["Retry-After"]})["headers"]


async def test_problems_have_the_described_shape(site: Any) -> None:
    site.not_ready = ["starting"]
    for url in ("/api/candles", "/api/nothing", "/health/ready"):
        document = await (await site.get(url)).get_json(force=True)
        validator({"$ref": "#/components/schemas/Problem"}).validate(document)
