"""The Containerfile: linted, and with ``--long`` built, started, killed and started anew over its volume."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .containers import ROOT, USER, container_of, copy_sources, image_of, need_buildah, running

CONTAINERFILE = ROOT / "Containerfile"


def test_hadolint_has_no_complaint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, CONTAINERFILE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_last_stage_runs_as_a_user_without_privileges() -> None:
    stages = re.split(r"(?m)^FROM ", CONTAINERFILE.read_text())
    last = stages[-1]
    assert re.findall(r"(?m)^(?:USER|VOLUME|STOPSIGNAL|ENTRYPOINT) .*", last) == [
        f"USER {USER}:0",
        "VOLUME /data",
        "STOPSIGNAL SIGTERM",
        'ENTRYPOINT ["mdserver"]',
    ]
    assert "HEALTHCHECK" in last
    assert "pip" not in last


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_buildah(request)
    with image_of(copy_sources(tmp_path_factory.mktemp("source")), "mdserver-test") as name:
        yield name


@pytest.mark.parametrize("user", [USER, 1_234_567])
async def test_built_killed_and_started_anew(image: str, user: int) -> None:
    """As the image's user and as one without a name: PostgreSQL starts, ``kill -9`` loses nothing, SIGTERM ends it."""
    counts = []
    with container_of(image) as container:
        for number in (signal.SIGKILL, signal.SIGTERM):
            async with running(container, user=user) as one:
                counts.append(await one.ticks())
                server = one.server()
                assert server.uids().effective == user
                server.send_signal(number)
    assert counts[1] >= counts[0]
