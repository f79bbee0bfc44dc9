"""What stands before every HTTP request and WebSocket handshake: host, origin, limits, key, rights.

Health asks for nothing: an orchestrator knows neither our name nor a key, and there is nothing to see. The pages and
the description of the interface hold no data and need no key; a page asks for one itself.
"""

from __future__ import annotations

import math

from quart import Request, Response, Websocket, g, has_request_context, request, websocket
from quart_trio import QuartTrio

from ...symbols import canonical
from ..access.access import Access, TooManyRequests, WrongKey
from ..access.grant import ANONYMOUS, Grant
from ..access.handshake import bearer_key
from .problem import Problem, problem_response, shortened

__all__ = ["current_grant", "guard", "may_see_names"]

HEALTH = ("/health/live", "/health/ready")
WITHOUT_KEY = frozenset(("/", "/docs", "/client.js", "/stream", "/api/openapi.json"))
"""Pages and descriptions; ``/stream`` over HTTP only says that it is a WebSocket."""
FILES_OF_PAGES = "/page/"
METRICS = "/metrics"
OF_ANY_SCOPE = frozenset((METRICS, "/api/brokers"))
STREAMING = frozenset(("/api/stream",))


def guard(app: QuartTrio, access: Access) -> None:
    """Put the guard before every request and handshake of the app."""

    @app.before_request
    async def check_request() -> Response | None:
        try:
            await _admit_request(access)
        except Problem as problem:  # here, since a path that has no route has no error handler of ours either
            return problem_response(problem)
        return None

    @app.after_request
    async def finish(response: Response) -> Response:
        _protect(access, response)
        return response

    @app.before_websocket
    async def check_handshake() -> Response | None:
        try:
            _check_origin(access, websocket)
            access.spend_request(None, peer_of(websocket))
        except Problem as problem:
            return problem_response(problem)
        except TooManyRequests as error:
            return problem_response(_too_many(error))
        return None


async def _admit_request(access: Access) -> None:
    if request.path in HEALTH:
        g.grant = access.anonymous
        return
    _check_origin(access, request)
    if request.method == "OPTIONS":  # a browser asks without the key whether it may ask with it
        return
    needs_key = request.path not in WITHOUT_KEY and not request.path.startswith(FILES_OF_PAGES)
    address = peer_of(request)
    grant = await _grant_of_request(access, address) if needs_key else access.anonymous
    try:
        access.spend_request(grant, address)
    except TooManyRequests as error:
        raise _too_many(error) from None
    g.grant = grant
    if needs_key and grant is not None:
        _check_rights(access, grant)


def _protect(access: Access, response: Response) -> None:
    if access.has_keys:  # what one key may see must not be kept for others
        control = response.headers.get("Cache-Control", "").replace("public", "private")
        if "private" not in control and "no-store" not in control:
            control = f"private, {control}" if control else "private"
        response.headers["Cache-Control"] = control
        response.vary.add("Authorization")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("X-Frame-Options", "DENY")
    if not access.origins.allowed:
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")


def peer_of(asked: Request | Websocket) -> str:
    """Return the address of the other end of the connection; a header cannot pretend to be it."""
    client = (asked.scope or {}).get("client")
    return str(client[0]) if client else "<local>"


def current_grant() -> Grant:
    """Return the rights of the request under way."""
    if not has_request_context():
        return ANONYMOUS
    grant: Grant | None = g.get("grant", None)
    return ANONYMOUS if grant is None else grant


def may_see_names() -> bool:
    """Return whether an answer without a key may name brokers: not where the config asks for keys."""
    return not has_request_context() or g.get("grant", ANONYMOUS) is not None


def _check_origin(access: Access, asked: Request | Websocket) -> None:
    host, origin = asked.headers.get("Host"), asked.headers.get("Origin")
    origins = access.origins
    if not origins.is_our_host(host):
        access.count("host")
        detail = (
            f"this server does not go by the name {shortened(host or '(none)')}; "
            "names besides its own stand in server.allowed_hosts"
        )
        raise Problem(403, "forbidden", detail)
    if not origins.may_ask(origin, host) or len(asked.headers.getlist("Origin")) > 1:
        access.count("origin")
        detail = (
            f"pages of {shortened(origin or '')} may not ask this server; "
            "those that may stand in server.allowed_origins"
        )
        raise Problem(403, "forbidden", detail)


async def _grant_of_request(access: Access, address: str) -> Grant:
    given = request.headers.getlist("Authorization")
    key = bearer_key(given[0]) if len(given) == 1 else None
    if key is None or not access.has_keys:
        if access.anonymous is None:
            access.count("no_key")
            raise _unauthorized("this server asks for a key: Authorization: Bearer KEY")
        return access.anonymous
    try:
        return await access.check(key, address)
    except WrongKey:
        raise _unauthorized("this key is not valid", ' error="invalid_token"') from None
    except TooManyRequests as error:
        raise _too_many(error) from None


def _check_rights(access: Access, grant: Grant) -> None:
    """Refuse what the key's rights do not cover; what names nothing is cut down to them where it is read."""
    scope = "stream" if request.path in STREAMING else "history"
    if request.path not in OF_ANY_SCOPE and scope not in grant.scopes:
        access.count("not_permitted")
        raise Problem(403, "forbidden", f"this key has no scope {scope}")
    if grant.brokers is not None and request.path == METRICS:
        access.count("not_permitted")
        raise Problem(403, "forbidden", "the metrics name every broker, and this key may not see all of them")
    if grant.is_whole:
        return
    for broker in request.args.getlist("broker"):
        if not grant.may_see(broker, None):
            access.count("not_permitted")
            raise Problem(
                403, "forbidden", f"this key may not see broker {shortened(broker)}", param="broker"
            )
    for name in _symbols_asked():
        if not grant.may_see(None, name):
            access.count("not_permitted")
            raise Problem(403, "forbidden", f"this key may not see {shortened(name)}", param="symbol")


def _symbols_asked() -> list[str]:
    asked = [request.view_args["symbol"]] if request.view_args and "symbol" in request.view_args else []
    asked += request.args.getlist("symbol")
    for listed in request.args.getlist("symbols"):
        asked += listed.split(",")
    names = []
    for text in asked:
        try:
            names.append(canonical(text.rpartition(":")[2]))
        except ValueError:
            continue  # no symbol at all: the route says what is wrong with it
    return names


def _unauthorized(detail: str, more: str = "") -> Problem:
    return Problem(
        401, "unauthorized", detail, headers={"WWW-Authenticate": f'Bearer realm="mdserver"{more}'}
    )


def _too_many(error: TooManyRequests) -> Problem:
    wait_s = max(1, math.ceil(error.wait_s))
    return Problem(429, "rate_limited", str(error), headers={"Retry-After": str(wait_s)})
