"""A client of server-sent events, as the standard has it: fields, comments, the last id."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio

from mdserver.errors import Unavailable

from .conftest import HttpAnswer


class EventSource:
    """One response. ``last_id`` and ``retry_ms`` are what a browser would remember."""

    def __init__(self, stream: trio.SocketStream, http: h11.Connection) -> None:
        self.stream = stream
        self.last_id = ""
        self.retry_ms: int | None = None
        self.comments = 0
        self.head: dict[str, str] = {}
        self._http = http
        self._text = ""

    async def block(self) -> str | None:
        """Return the next block of lines; None at the end."""
        while "\n\n" not in self._text:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive_some(65_536))
            elif isinstance(event, h11.Data):
                self._text += bytes(event.data).decode()
            else:
                assert isinstance(event, h11.EndOfMessage), event
                assert not self._text
                return None
        block, _, self._text = self._text.partition("\n\n")
        return block

    async def get(self) -> Any:
        """Return the data of the next event; None at the end."""
        with trio.fail_after(30):
            while (block := await self.block()) is not None:
                data = None
                for line in block.split("\n"):
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    if name == "id":
                        self.last_id = value
                    elif name == "data":
                        data = json.loads(value)
                    elif name == "retry":
                        self.retry_ms = int(value)
                    else:
                        assert name == "", line
                        self.comments += 1
                if data is not None:
                    return data
        return None

    async def get_type(self, kind: str) -> Any:
        """Return the next event of a type."""
        while (event := await self.get())["type"] != kind:
            pass
        return event


@asynccontextmanager
async def open_events(port: int, query: str, **headers: str) -> AsyncIterator[EventSource]:
    """Open a stream of events, which must be 200; header names are written with ``_``."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    http = h11.Connection(h11.CLIENT)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        request = h11.Request(
            method="GET", target=f"/api/stream?{query}", headers=[("Host", "localhost"), *named]
        )
        await stream.send_all(http.send(request) + http.send(h11.EndOfMessage()))
        with trio.fail_after(30):
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65_536))
        assert isinstance(event, h11.Response), event
        if event.status_code == 503:
            raise Unavailable(str(event))
        assert event.status_code == 200, event
        source = EventSource(stream, http)
        source.head = HttpAnswer(
            200, {name.decode().lower(): value.decode() for name, value in event.headers}, b""
        ).headers
        yield source
