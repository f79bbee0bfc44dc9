"""Pull what the predecessor left: its parts, day by day, through the path of the import."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.plugin import CommandDatabase, Progress

from .bucket import Bucket
from .predecessor import Part, hours_of_day
from .selection import Failed, Report

__all__ = ["pull_parts"]


async def pull_parts(
    database: CommandDatabase,
    bucket: Bucket,
    broker: str,
    parts: Sequence[Part],
    report: Report,
    progress: Progress,
) -> None:
    """Load the days of these parts as ticks of ``broker``. Hours that the ledger has unchanged are not loaded again."""
    ordered = sorted(parts, key=lambda part: (part.symbol, part.day, part.key))
    for (symbol, day), group in groupby(ordered, lambda part: (part.symbol, part.day)):
        if report.stopped is not None:
            return
        try:
            fetched = []
            for part in group:
                data = await bucket.get(part.key)
                if data is None:
                    raise BadMessage(f"{part.key}: it is listed, but not there (404)")
                fetched.append((part.key, data))
            hours = await trio.to_thread.run_sync(hours_of_day, day, fetched)
            results = await database.load_hours(broker, symbol, hours)
            failures = [result for result in results.values() if result.startswith("failed")]
            if failures:
                raise BadMessage(failures[0].removeprefix("failed: "))
        except (BadMessage, Rejected) as error:
            report.failed.append(Failed(f"{symbol} {day}", str(error)))
        except Unavailable as error:
            if type(error) is not Unavailable:
                raise  # the database is away
            report.failed.append(Failed(f"{symbol} {day}", str(error)))
            report.stopped = str(error)
            return
        else:
            report.done += 1
            report.size_bytes += sum(len(data) for _, data in fetched)
            report.known += all(result == "unchanged" for result in results.values())
        progress.advance()
