"""One HTTP request and its answer over a real socket, shared by the fake venues. h11 implements HTTP."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import attrs
import h11
import msgspec
import trio

__all__ = ["GONE", "HttpAnswer", "HttpRequest", "read_request", "send_answer"]

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
"""Errors that trio raises when the other side has disconnected, which is normal for a venue."""


@attrs.frozen
class HttpRequest:
    """A client's request. ``headers`` have lower-case names; ``target`` is path and query as sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the target, the last value of each."""
        return {
            name: values[-1]
            for name, values in parse_qs(urlsplit(self.target).query, keep_blank_values=True).items()
        }

    @property
    def is_upgrade(self) -> bool:
        """Return whether the client requests a WebSocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


@attrs.frozen
class HttpAnswer:
    """A venue's answer; text and bytes are sent unchanged, anything else as JSON."""

    status: int = 200
    content: object = b""
    headers: dict[str, str] = attrs.Factory(dict)

    def body(self) -> bytes:
        """Return the bytes of the body."""
        if isinstance(self.content, str):
            return self.content.encode()
        return self.content if isinstance(self.content, bytes) else msgspec.json.encode(self.content)


async def read_request(stream: trio.abc.ReceiveStream, http: h11.Connection) -> HttpRequest | None:
    """Return the connection's next request, or None if the client has disconnected.

    Raises h11.RemoteProtocolError if the bytes are not HTTP.
    """
    head: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return HttpRequest(head.method.decode(), head.target.decode(), headers, body)
        else:
            return None


async def send_answer(stream: trio.abc.SendStream, http: h11.Connection, answer: HttpAnswer) -> bool:
    """Send an answer; return whether the connection may carry another request."""
    body = answer.body()
    kind = "application/json" if not isinstance(answer.content, str | bytes) else "text/plain"
    headers = {"Content-Type": kind} | answer.headers | {"Content-Length": str(len(body))}
    head = h11.Response(status_code=answer.status, headers=list(headers.items()))
    parts = (head, h11.Data(data=body), h11.EndOfMessage())
    await stream.send_all(b"".join(http.send(part) or b"" for part in parts))
    if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
        return False
    http.start_next_cycle()
    return True
