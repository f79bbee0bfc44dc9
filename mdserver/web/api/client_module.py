"""``GET /client.js``: the JavaScript client, for pages and programs that take it from the server itself."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

__all__ = ["client_module"]


@cache
def client_module() -> bytes:
    """Return the module: from the installed package, else from ``clients/js`` of the checkout."""
    package = resources.files("mdserver")
    installed = package / "client.js"
    source = Path(str(package)).parent / "clients" / "js" / "mdserver.js"
    return (installed if installed.is_file() else source).read_bytes()
