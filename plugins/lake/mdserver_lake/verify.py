"""Verify: read everything in the lake back and compare it with its own checksum and with the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import PushedDay
from mdserver.plugin import CommandDatabase, Progress

from .bucket import Bucket
from .codec import decode_candles, decode_records
from .layout import Place
from .selection import Failed, Report

__all__ = ["verify"]

WORKERS = 4


async def verify(
    database: CommandDatabase,
    bucket: Bucket,
    known: Mapping[Place, PushedDay],
    places: Mapping[Place, int],
    report: Report,
    progress: Progress,
) -> None:
    """Read all objects that are known or listed. What is no longer as it was pushed is noted to be pushed again."""
    send, receive = trio.open_memory_channel[Place](0)

    async def work(receive: trio.MemoryReceiveChannel[Place]) -> None:
        async with receive:
            async for place in receive:
                if report.stopped is None:
                    await _verify_one(database, bucket, known.get(place), place, report)
                progress.advance()

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(work, receive.clone())
        receive.close()
        async with send:
            for place in sorted({*known, *places}):
                await send.send(place)


async def _verify_one(
    database: CommandDatabase, bucket: Bucket, pushed: PushedDay | None, place: Place, report: Report
) -> None:
    try:
        data = await bucket.get(place.key)
        if data is None:
            raise BadMessage("it was pushed, but is not there (404)")
        if pushed is not None and hashlib.sha256(data).hexdigest() != pushed.checksum:
            raise BadMessage("it is not what was pushed: another checksum")
        decode = decode_candles if place.kind == "candle" else decode_records
        _, header = await trio.to_thread.run_sync(decode, data)
        found = header.kind, header.broker, header.symbol, header.type, header.day
        if found != tuple(place):
            raise BadMessage(f"it holds {' '.join(map(str, found))}, not what its name says")
    except BadMessage as error:
        report.failed.append(Failed(place.key, str(error)))
        if pushed is not None:
            # Retention must not take it for safe, and the next push has to repair it: no day has an empty mark.
            values = {name: getattr(pushed, name) for name in pushed.__struct_fields__}
            await database.note_pushed(bucket.address, PushedDay(**{**values, "mark": "", "hist_v": -1}))
    except Unavailable as error:
        if type(error) is not Unavailable:
            raise  # the database is away
        report.failed.append(Failed(place.key, str(error)))
        report.stopped = str(error)
    except Rejected as error:
        report.failed.append(Failed(place.key, str(error)))
    else:
        report.done += 1
        report.rows += 0 if place.kind == "candle" else header.rows
        report.size_bytes += len(data)
