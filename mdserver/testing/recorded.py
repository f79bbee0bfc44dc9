"""Readers for files of recorded frames, and the folder of such files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

__all__ = ["Frame", "read_cryptofeed", "read_cryptofeed_http", "read_jsonl", "recorded_folder"]

_ENVIRONMENT = "MDSERVER_RECORDED_DATA"


class Frame(NamedTuple):
    """A frame of a combined stream as the venue sent it. ``time_s`` is when it was received, 0 if unknown."""

    time_s: float
    stream: str
    text: str


class _Named(msgspec.Struct):
    stream: str


def recorded_folder() -> Path | None:
    """Return the folder of recorded venue data, or None if there is none.

    The environment variable MDSERVER_RECORDED_DATA names it; the default is ``shared/data`` beside the checkout.
    """
    named = os.environ.get(_ENVIRONMENT)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = folder / "recorded" if (folder / "recorded").is_dir() else folder
    return folder if folder.is_dir() else None


def read_cryptofeed(path: Path) -> list[Frame]:
    """Read cryptofeed's format: ``<epoch seconds>: <frame>`` lines between lines that name the URL."""
    frames = []
    for line in path.read_text(encoding="utf-8").splitlines():
        time_s, separator, text = line.partition(": ")
        if separator and text.startswith('{"stream"'):
            frames.append(_frame(float(time_s), text))
    return frames


def read_cryptofeed_http(path: Path) -> dict[str, str]:
    """Read cryptofeed's HTTP format, ``<url> -> <epoch seconds>: <body>`` lines: URL to body."""
    bodies = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        url, separator, rest = line.partition(" -> ")
        if separator:
            bodies[url] = rest.partition(": ")[2]
    return bodies


def read_jsonl(path: Path) -> list[Frame]:
    """Read one frame a line, without times."""
    return [_frame(0.0, line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _frame(time_s: float, text: str) -> Frame:
    return Frame(time_s, msgspec.json.decode(text, type=_Named).stream, text)
