"""A venue that sends one trade at a time: Binance combined streams whose trade ids are microseconds.

    python trade_venue.py PORT RATE

A trade's id is the clock at which it was written to the socket, so whoever gets it knows how long it was on its way.
"""

from __future__ import annotations

import sys
import time

from venue import Connection, frame, serve


class TradeConnection(Connection):
    """Sends trades of the first subscribed symbol, each with a write of its own, at a steady pace."""

    def _pump(self) -> None:
        sent, started = 0, time.monotonic()
        try:
            while True:
                early = started + sent / self._rate - time.monotonic()
                if early > 0:
                    time.sleep(early)
                sent += 1
                if self._symbols:
                    self._send(_trade(self._symbols[0]))
        except OSError:
            pass  # the client is gone; the reading thread ends for the same reason


def _trade(symbol: str) -> bytes:
    now_us = time.time_ns() // 1000
    return frame(
        b'{"stream":"%b@trade","data":{"e":"trade","E":%d,"s":"%b","t":%d,"p":"67123.45000000",'
        b'"q":"0.00200000","T":%d,"m":true,"M":true}}'
        % (symbol.lower().encode(), now_us // 1000, symbol.encode(), now_us, now_us // 1000)
    )


if __name__ == "__main__":
    serve(TradeConnection, int(sys.argv[1]), float(sys.argv[2]))
