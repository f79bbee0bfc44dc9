"""The files of the pages: read and compressed once, with the digest that their ETag is made from."""

from __future__ import annotations

import hashlib
import zlib
from functools import cache
from importlib import resources

import attrs

__all__ = ["Asset", "asset_names", "load_asset"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_FILES = resources.files(__package__) / "files"
_FOLDERS = ("", "vendor/")


@attrs.frozen
class Asset:
    """A file as it is sent: its bytes, the same compressed, and what names this version of it."""

    content_type: str
    data: bytes
    gzip: bytes
    digest: str


@cache
def asset_names() -> frozenset[str]:
    """Return the names that a browser may ask for, such as ``app.js`` and ``vendor/lightweight-charts.js``."""
    return frozenset(
        folder + file.name
        for folder in _FOLDERS
        for file in (_FILES / folder if folder else _FILES).iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    )


@cache  # a dozen small files and two of a megabyte
def load_asset(name: str) -> Asset:
    """Read one of :func:`asset_names`. Blocking: compressing the largest takes a tenth of a second, once."""
    data = (_FILES / name).read_bytes()
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Asset(_TYPES[name.rpartition(".")[2]], data, packed, digest)
