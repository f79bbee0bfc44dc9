"""Streams until COUNT ticks have come, on the named event loop; prints "go" after the first 100, then all as JSON."""

import json
import sys

import mdserver_client

URL, COUNT, LOOP = sys.argv[1], int(sys.argv[2]), sys.argv[3]
seqs: list[int] = []
gaps: list[dict[str, object]] = []


def take(record: mdserver_client.Record) -> bool:
    """Note a record; true once there are enough."""
    if isinstance(record, mdserver_client.Gap):
        gaps.append({"from": record.from_time, "to": record.to_time, "cause": record.cause})
    elif record.seq is not None:
        seqs.append(record.seq)
        if len(seqs) == 100:
            print("go", flush=True)  # noqa: T201
    return len(seqs) >= COUNT


async def main() -> None:
    """Stream with the loop that this runs on."""
    async with mdserver_client.connect(URL) as client:
        async for record in client.stream(["EURUSD"], types=["tick"], broker="mock"):
            if take(record):
                break


if LOOP == "trio":
    import trio

    trio.run(main)
else:
    import asyncio

    asyncio.run(main())
print(json.dumps({"seqs": seqs, "gaps": gaps}))  # noqa: T201
