"""The routes under ``/udf``. An unknown parameter is no error here: each version of the client has others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from quart import Blueprint, Response, current_app, request

from ...errors import StoreUnavailable
from ...model import US_PER_S
from ..api.instruments import KINDS, instruments_of, search, with_digits
from ..api.params import number_up_to, one_of, query_of
from ..api.problem import Problem
from ..api.read_context import Reading
from ..api.routes import add_error_handlers, json_answer, within
from . import bars, marks, quotes
from .resolution import RESOLUTIONS
from .symbols import group_document, named, named_by, search_item, symbol_document

__all__ = ["udf_routes"]

DEFAULT_FOUND = 30
MAX_FOUND = 1_000

Answer = Callable[[Mapping[str, str], Reading], Awaitable[Any]]


def udf_routes(reading: Reading) -> Blueprint:
    """Return the blueprint of all UDF routes."""
    routes = Blueprint("udf", __name__, url_prefix="/udf")
    answers: dict[str, tuple[Collection[str], Answer]] = {
        "config": ((), _config),
        "symbols": (("symbol",), _symbols),
        "symbol_info": (("group",), _symbol_info),
        "search": (("query", "type", "exchange", "limit"), _search),
        "history": (bars.QUERY, bars.history_document),
        "marks": (marks.QUERY, marks.marks),
        "timescale_marks": (marks.QUERY, marks.timescale_marks),
        "quotes": (quotes.QUERY, quotes.quotes_document),
    }
    for name, (known, make) in answers.items():
        routes.add_url_rule(f"/{name}", name, _view(reading, known, make))

    @routes.get("/time")
    async def time() -> Response:
        text = str(reading.services.now_us() // US_PER_S)
        response: Response = current_app.response_class(text, content_type="text/plain; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        return response

    add_error_handlers(routes)
    return routes


def _view(reading: Reading, known: Collection[str], make: Answer) -> Callable[[], Awaitable[Response]]:
    async def view() -> Response:
        given = [(name, value) for name, value in request.args.items(multi=True) if name in known]
        query = query_of(given, known)

        async def work() -> Response:
            return await json_answer(reading, await make(query, reading))

        return await within(work(), reading.services.answer_s)

    return view


async def _config(query: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    names = await _exchanges(reading)
    exchanges = [{"value": name, "name": name, "desc": name} for name in names]
    return {
        "supports_search": True,
        "supports_group_request": False,
        "supports_marks": True,
        "supports_timescale_marks": True,
        "supports_time": True,
        "exchanges": [{"value": "", "name": "All sources", "desc": ""}, *exchanges],
        "symbols_types": [
            {"name": "All types", "value": ""},
            *({"name": one, "value": one} for one in KINDS),
        ],
        "supported_resolutions": list(RESOLUTIONS),
    }


async def _exchanges(reading: Reading) -> dict[str, None]:
    """Return the names of the sources; a mock's that is not configured only where records of it are stored."""
    sources = reading.seen_sources()
    left_over = {one.name for one in sources if one.synthetic and not one.types}
    if left_over:
        with suppress(StoreUnavailable, Problem):  # the choice of sources is offered without a database too
            left_over -= {one.broker for one in await reading.all_series()}
    return dict.fromkeys(one.name for one in sources if one.name not in left_over)


async def _symbols(query: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    return symbol_document(await named_by(await named(query, reading), reading))


async def _search(query: Mapping[str, str], reading: Reading) -> list[dict[str, Any]]:
    limit = number_up_to(query, "limit", MAX_FOUND, DEFAULT_FOUND)
    kind = one_of(query, "type", KINDS, KINDS[0]) if "type" in query else None
    broker = query.get("exchange")
    known = [one for one in await reading.all_series() if broker in (None, one.broker)]
    text = query.get("query", "").rpartition(":")[2]
    found = search((one for one in instruments_of(known, reading) if kind in (None, one.kind)), text)
    return [search_item(one, broker) for one in found[:limit]]


async def _symbol_info(query: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    broker = query.get("group")
    known = [one for one in await reading.all_series() if broker in (None, one.broker)]
    return group_document(await with_digits(list(instruments_of(known, reading)), reading), broker)
