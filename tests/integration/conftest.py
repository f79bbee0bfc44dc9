from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mdserver.testing.dukascopy import FakeDukascopy, open_fake_dukascopy
from mdserver.testing.recorded import recorded_folder
from tests.clusters import reachable_folder
from tests.integration.importing import CODE, HOURS, JETTA_CODE, Importer, made_up, make_importer


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder in which an embedded PostgreSQL can live."""
    with reachable_folder() as path:
        yield path


@pytest.fixture
def recorded_data() -> Path:
    """The folder of recorded venue data; skips where there is none. (Skipping within a coroutine loses the reason.)"""
    found = recorded_folder()
    if found is None:
        pytest.skip("no recorded data: set MDSERVER_RECORDED_DATA to their folder")
    return found


@pytest.fixture
async def feed() -> AsyncIterator[FakeDukascopy]:
    """A datafeed with four made-up days of EURUSD."""
    async with open_fake_dukascopy() as feed:
        for hour_us in HOURS:
            feed.put_hour(CODE, JETTA_CODE, hour_us, made_up(hour_us), decimals=5)
        yield feed


@pytest.fixture
def importer(tmp_path: Path, database_url: str, feed: FakeDukascopy) -> Importer:
    """Imports from the feed into a fresh database."""
    return make_importer(tmp_path, database_url, feed)
