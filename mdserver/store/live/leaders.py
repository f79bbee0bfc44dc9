"""The table ``leaders``: under which fence each broker is led where several processes share a bus."""

from __future__ import annotations

from ..connection.connect import Connection

__all__ = ["note_leader"]


def note_leader(conn: Connection, broker: str, process: str, fence: int) -> tuple[int, str]:
    """Note that a process leads under a fence, unless one as high is noted; return the fence and process noted then."""
    conn.execute(
        """insert into leaders (broker, fence, process) values (%s, %s, %s)
        on conflict (broker) do update set fence = excluded.fence, process = excluded.process, since = now()
        where leaders.fence < excluded.fence""",
        (broker, fence, process),
    )
    row = conn.execute("select fence, process from leaders where broker = %s", (broker,)).fetchone()
    assert row is not None  # noqa: S101 - just written
    return row[0], row[1]
