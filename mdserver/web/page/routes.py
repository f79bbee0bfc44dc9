"""The routes of the pages: ``/``, ``/docs`` and the files that they load from ``/page/``.

A page is asked for anew each time and mostly answered with 304. The files that it loads have the version of all files
in their addresses, so a browser keeps them for good, and an upgraded server never meets its old scripts.

The pages load nothing from elsewhere, and their Content-Security-Policy holds them to it: no inline script or style,
no frame, no form. They hold no data, so they need no key; what they show they ask for at ``/api`` and the WebSocket,
where a key is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import trio
from quart import Blueprint, Response, current_app, request
from werkzeug.exceptions import NotFound

from ..api.caching import IMMUTABLE, REVALIDATE
from .assets import CLIENT, Asset, asset_names, files_version, load_asset, load_page
from .first_question import first_question

__all__ = ["CONTENT_SECURITY_POLICY", "page_routes"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the icons in the style sheets
        "connect-src 'self'",  # also the WebSocket of the same host and port
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_VERSIONED = re.compile(r"([0-9a-f]{16})/(.+)")


def page_routes(has_keys: Callable[[], bool] = lambda: False) -> Blueprint:
    """Return the blueprint with the pages. ``has_keys``: whether a page may have to send a key with its questions."""
    routes = Blueprint("page", __name__)
    ready: dict[tuple[Callable[[str], Asset], str], Asset] = {}

    async def loaded(load: Callable[[str], Asset], name: str) -> Asset:
        asset = ready.get((load, name))
        if asset is None:  # files are read and compressed once, away from the event loop
            asset = ready[load, name] = await trio.to_thread.run_sync(load, name)
        return asset

    @routes.get("/")
    async def page() -> Response:
        response = _answer(await loaded(load_page, "page.html"), REVALIDATE)
        question = None if has_keys() else first_question(request.args)
        if question is not None:
            response.headers["Link"] = f"<{question}>; rel=preload; as=fetch; crossorigin"
        return response

    @routes.get("/docs")
    async def docs() -> Response:
        return _answer(await loaded(load_page, "docs.html"), REVALIDATE)

    @routes.get("/client.js")
    async def client() -> Response:
        return _answer(await loaded(load_asset, CLIENT), REVALIDATE)

    @routes.get("/page/<path:name>")
    async def file(name: str) -> Response:
        versioned = _VERSIONED.fullmatch(name)
        name = versioned[2] if versioned else name
        if name not in asset_names():
            raise NotFound
        asset = await loaded(load_asset, name)
        # A page of another version, open while the server is upgraded, gets what there is and does not keep it.
        lasts = versioned is not None and versioned[1] == files_version()
        return _answer(asset, IMMUTABLE if lasts else REVALIDATE)

    return routes


def _answer(asset: Asset, cache_control: str) -> Response:
    packed = request.accept_encodings.quality("gzip") > 0
    tag = f"{asset.digest}-gz" if packed else asset.digest
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": cache_control,
        "Vary": "Accept-Encoding",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    }
    if request.if_none_match.contains_weak(tag):
        return _not_modified(headers)
    return _full(asset, headers, packed=packed)


def _not_modified(headers: dict[str, str]) -> Response:
    response: Response = current_app.response_class(b"", 304, headers=headers)
    del response.headers["Content-Type"]
    del response.headers["Content-Length"]
    return response


def _full(asset: Asset, headers: dict[str, str], *, packed: bool) -> Response:
    if packed:
        headers = {**headers, "Content-Encoding": "gzip"}
    body = asset.gzip if packed else asset.data
    response: Response = current_app.response_class(
        body, 200, headers=headers, content_type=asset.content_type
    )
    response.timeout = None  # our server bounds each send
    return response
