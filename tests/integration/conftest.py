from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import reachable_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder in which an embedded PostgreSQL can live."""
    with reachable_folder() as path:
        yield path
