"""The routes of the pages: ``/``, ``/docs`` and the files that they load from ``/page/``.

The pages load nothing from elsewhere, and their Content-Security-Policy holds them to it: no inline script or style,
no frame, no form. They hold no data, so they need no key; what they show they ask for at ``/api`` and the WebSocket,
where a key is asked for.
"""

from __future__ import annotations

import trio
from quart import Blueprint, Response, current_app, request
from werkzeug.exceptions import NotFound

from .assets import Asset, asset_names, load_asset

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


def page_routes() -> Blueprint:
    """Return the blueprint with the pages."""
    routes = Blueprint("page", __name__)

    @routes.get("/")
    async def page() -> Response:
        return await _answer("page.html")

    @routes.get("/docs")
    async def docs() -> Response:
        return await _answer("docs.html")

    @routes.get("/page/<path:name>")
    async def file(name: str) -> Response:
        if name not in asset_names():
            raise NotFound
        return await _answer(name)

    return routes


async def _answer(name: str) -> Response:
    asset = await trio.to_thread.run_sync(load_asset, name)
    packed = request.accept_encodings.quality("gzip") > 0
    tag = f"{asset.digest}-gz" if packed else asset.digest
    headers = {
        "ETag": f'"{tag}"',
        # Asked for anew each time, and mostly answered with 304: an upgraded server never meets its old scripts.
        "Cache-Control": "no-cache",
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
