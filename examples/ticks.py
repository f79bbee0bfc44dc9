"""Prints an hour of candles and then live ticks, also over restarts of the server: python ticks.py [SYMBOL] [URL]"""

import asyncio
import sys
import time

from mdserver_client import Gap, MdserverError, Status, connect


def show(status: Status) -> None:
    print(f"{status.broker or 'connection'}: {status.state}: {status.message}", file=sys.stderr)


async def main(symbol: str = "EURUSD", url: str = "http://127.0.0.1:8080") -> None:
    async with connect(url) as client:
        now = time.time()
        for candle in await client.candles(symbol, "1m", now - 3_600, now):
            print(candle.time, candle.open, candle.high, candle.low, candle.close)
        async for record in client.stream([symbol], types=["tick"], on_status=show):
            if isinstance(record, Gap):
                print(f"records may be missing from {record.from_time} to {record.to_time}: {record.cause}")
            elif record.type == "tick":
                print(record.seq, record.time, record.bid, record.ask)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except MdserverError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
