"""The files of the pages: read and compressed once, with the version that their addresses have in a page."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

import attrs

from ..api.client_module import client_module

__all__ = ["Asset", "asset_names", "files_version", "load_asset", "load_page", "modules_of"]

CLIENT = "client.js"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_FILES = resources.files(__package__) / "files"
_FOLDERS = ("", "vendor/")
_IMPORTED = re.compile(r'^(?:import|export)\b[^;"]*"(\.[^"]+)";', re.MULTILINE)
_LINK = re.compile(r'(?<==")page/')


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
    found = {
        folder + file.name
        for folder in _FOLDERS
        for file in (_FILES / folder if folder else _FILES).iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }
    return frozenset(found | {CLIENT})


@cache
def files_version() -> str:
    """Return what changes with any of the files. Blocking: all of them are read."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(asset_names()):
        digest.update(b"%b %d\n%b" % (name.encode(), len(_data()[name]), _data()[name]))
    return digest.hexdigest()


def modules_of(name: str) -> list[str]:
    """Return the modules that one loads before it runs, without itself: what is imported, and what that imports."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop(0)
        for imported in _imports_of(module):
            if imported != name and imported not in found:
                found[imported] = None
                waiting.append(imported)
    return list(found)


@cache  # a dozen small files and two of a megabyte
def load_asset(name: str) -> Asset:
    """Read one of :func:`asset_names`. Blocking: compressing the largest takes a tenth of a second, once."""
    return _packed(name, _data()[name])


@cache
def load_page(name: str) -> Asset:
    """Return a page whose files have the version in their addresses, with links that load its modules at once.

    Without the links a browser would learn what a module imports only when it has that module. Blocking.
    """
    text = _data()[name].decode()
    links = [f'<link rel="modulepreload" href="page/{module}">' for module in modules_of("page.js")]
    text = text.replace("<!-- modules -->", "\n".join(links))
    return _packed(name, _LINK.sub(f"page/{files_version()}/", text).encode())


@cache
def _data() -> Mapping[str, bytes]:
    return {
        name: client_module() if name == CLIENT else (_FILES / name).read_bytes() for name in asset_names()
    }


def _imports_of(module: str) -> Iterator[str]:
    for imported in _IMPORTED.findall(_data()[module].decode()):
        yield str(PurePosixPath(module).parent / imported)


def _packed(name: str, data: bytes) -> Asset:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Asset(_TYPES[name.rpartition(".")[2]], data, packed, digest)
