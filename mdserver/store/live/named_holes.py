"""The gaps for records that clients have received and that are in no table: who resumes over them is to learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg

from ...model import LOST, UNSTORABLE, Gap, Published
from ..gap_ledger import is_gap_behind
from ..rows import MAX_TIME_US

__all__ = ["Jump", "lost_numbers", "unstored"]


@attrs.frozen
class Jump:
    """Numbers of a series that are left out: those between ``before``, of a record at ``from_us``, and ``behind``."""

    series_id: int
    before: int
    from_us: int
    behind: Published


def unstored(published: Published) -> Published:
    """Return the gap that takes the place of a record that the database refuses."""
    time_us = min(max(published.record.time_us, 0), MAX_TIME_US)
    return Published(published.topic, published.seq, Gap(published.topic, time_us, time_us, UNSTORABLE, 1))


def lost_numbers(
    conn: psycopg.Connection[Any], jumps: Sequence[Jump], gaps: Sequence[Published]
) -> list[Published]:
    """Return a gap for each jump that no other gap explains, of this batch (``gaps``) or of earlier ones. Blocking."""
    return [_lost(jump) for jump in jumps if not _is_named(conn, jump, gaps)]


def _lost(jump: Jump) -> Published:
    """Return the gap for numbers that are in the journal no more; how many of them were used nobody knows."""
    topic, seq, to_us = jump.behind.topic, jump.behind.seq, jump.behind.record.time_us
    return Published(topic, seq - 1, Gap(topic, jump.from_us, max(jump.from_us, to_us), LOST))


def _is_named(conn: psycopg.Connection[Any], jump: Jump, gaps: Sequence[Published]) -> bool:
    topic, last = jump.behind.topic, jump.behind.seq - 1
    if any(gap.topic == topic and jump.before <= gap.seq <= last for gap in gaps):
        return True
    return is_gap_behind(conn, jump.series_id, jump.before, last)
