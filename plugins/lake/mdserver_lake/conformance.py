"""The case of this plugin for the conformance suite: a lake in a folder, pushed to from an empty database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from mdserver.testing import CommandCase

from . import plugin

__all__ = ["case"]

FOLDER = Path(tempfile.gettempdir()) / f"mdserver-lake-case-{os.getpid()}"


class _Case(CommandCase):
    plugin = plugin
    arguments = ("push",)
    output = "0 days pushed"
    config = MappingProxyType({"brokers": [], "lake": {"url": f"file://{FOLDER}"}})

    @asynccontextmanager
    async def open_venue(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            shutil.rmtree(FOLDER, ignore_errors=True)


case = _Case()
