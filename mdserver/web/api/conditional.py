"""Build an HTTP answer: format, compression, conditional requests."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Hashable, Mapping

import trio
from quart import Request, Response, current_app

from . import arrow
from .caching import Digest, DigestMemory
from .encoding import FORMATS, Body, Format, digest_of
from .params import one_of
from .problem import Problem

__all__ = ["answer", "format_of", "small_body"]

GZIP_FROM_BYTES = 1_024
"""Smaller bodies are not compressed: it would save nothing."""

_GZIP_LEVEL = 1  # level 6 saves another 16 % of the bytes for four times the CPU
_INLINE_BYTES = 65_536  # compressing up to this size takes no longer than the way to a thread and back
_CONTENT_TYPES: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "columns": "application/json",
    "arrow": arrow.CONTENT_TYPE,
}


def format_of(request: Request, query: Mapping[str, str]) -> Format:
    """Return the parameter ``format``, else what ``Accept`` prefers; JSON by default.

    Raises :class:`Problem` (406) if only Arrow will do and cannot be written.
    """
    form = one_of(query, "format", FORMATS, "json") if "format" in query else _accepted(request)
    if form == "arrow" and not arrow.is_installed():
        raise Problem(
            406, "not_acceptable", arrow.NOT_INSTALLED, param="format" if "format" in query else None
        )
    return form


def _accepted(request: Request) -> Format:
    offered = {"application/json": "json", "text/csv": "csv", arrow.CONTENT_TYPE: "arrow"}
    forms: dict[str, Format] = {
        kind: form for form in FORMATS for kind, name in offered.items() if name == form
    }
    accepted = request.accept_mimetypes
    best = accepted.best_match(list(offered))
    if best == arrow.CONTENT_TYPE and not arrow.is_installed():  # another that the client takes as well
        best = accepted.best_match(list(offered)[:2]) or best
    return forms.get(best or "", "json")


def small_body(data: bytes) -> Body:
    """Return a body that consists of one piece."""
    return Body([data], len(data), digest_of(data))


async def answer(
    request: Request,
    build: Callable[[], Awaitable[Body]],
    *,
    form: Format,
    headers: dict[str, str],
    memory: DigestMemory,
    key: Hashable = None,
) -> Response:
    """Answer with the body that ``build`` makes, or with 304.

    ``key`` is the version key of the body: while its digest is remembered, a client that has the body gets a 304
    without a call of ``build``. None: the body is always built.
    """
    headers = {"Vary": "Accept, Accept-Encoding", **headers}
    gzip = _takes_gzip(request)
    known = memory.get(key) if key is not None else None
    if known is not None and _has(request, tag := _tag(known, gzip)):
        return _not_modified(tag, {**headers, **known.headers})
    body = await build()
    headers = {**headers, **body.headers}
    digest = Digest(body.digest, body.size, body.headers)
    if key is not None:
        memory.put(key, digest)
    tag = _tag(digest, gzip)
    if _has(request, tag):
        return _not_modified(tag, headers)
    if gzip and body.size >= GZIP_FROM_BYTES:
        return _full(await _compressed(body), tag, {**headers, "Content-Encoding": "gzip"}, form)
    return _full(body.pieces, tag, headers, form)


def _takes_gzip(request: Request) -> bool:
    accepted = request.accept_encodings
    gzip = float(accepted.quality("gzip"))
    listed = {str(name).lower() for name in accepted.values()}
    return gzip > 0 and not ("identity" in listed and accepted.quality("identity") > gzip)


def _tag(digest: Digest, gzip: bool) -> str:
    return f"{digest.text}-gz" if gzip and digest.size >= GZIP_FROM_BYTES else digest.text


def _has(request: Request, tag: str) -> bool:
    """Whether the client has this body. A weak tag counts too: a proxy that recompressed the body made it weak."""
    condition = request.if_none_match
    return bool(condition) and condition.contains_weak(tag)


def _not_modified(tag: str, headers: dict[str, str]) -> Response:
    response: Response = current_app.response_class(b"", 304, headers={**headers, "ETag": f'"{tag}"'})
    del response.headers["Content-Type"]
    del response.headers["Content-Length"]
    return response


def _full(pieces: list[bytes], tag: str, headers: dict[str, str], form: Format) -> Response:
    size = sum(map(len, pieces))
    response: Response = current_app.response_class(
        pieces,
        200,
        headers={**headers, "ETag": f'"{tag}"', "Content-Length": str(size)},
        content_type=_CONTENT_TYPES[form],
    )
    response.timeout = (
        None  # our server bounds each send; Quart's 60 s for the whole response would cut slow readers
    )
    return response


async def _compressed(body: Body) -> list[bytes]:
    if body.size <= _INLINE_BYTES:
        return _gzip(body.pieces)
    # zlib releases the GIL, and the thread shares no data: a cancelled request need not wait for it
    return await trio.to_thread.run_sync(_gzip, body.pieces, abandon_on_cancel=True)


def _gzip(pieces: list[bytes]) -> list[bytes]:
    # zlib's gzip header has no time in it: the same body always gives the same bytes, so the ETag holds
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = [packer.compress(piece) for piece in pieces]
    packed.append(packer.flush())
    return [piece for piece in packed if piece]
