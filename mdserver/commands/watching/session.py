"""The connection of ``mdserver watch``: subscribes, hands over what comes, and connects again when it is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
import trio

from ...backoff import Backoff
from ...errors import BadMessage, Rejected, Unavailable
from ...kinds import BY_NAME
from ...net import WebSocket, open_websocket

__all__ = ["Message", "View", "Wanted", "watch"]

Message: TypeAlias = dict[str, Any]

FIRST_PAUSE_S = 0.5
MOST_PAUSE_S = 15.0
SILENCE_S = 45.0
"""The server pings each client every 20 s."""
HISTORY_AWAY = 410


@attrs.frozen
class Wanted:
    """What to subscribe to: for each broker (None: any that has the symbol) its symbols."""

    symbols: tuple[tuple[str | None, tuple[str, ...]], ...]
    types: tuple[str, ...]

    @classmethod
    def of(cls, by_broker: Mapping[str | None, Sequence[str]], types: Sequence[str]) -> Wanted:
        """Return it with each symbol once."""
        rows = tuple((broker, tuple(dict.fromkeys(symbols))) for broker, symbols in by_broker.items())
        return cls(rows, tuple(dict.fromkeys(types)))


class View(Protocol):
    """Where it is shown. All of its methods return at once."""

    resumes: bool
    """Whether records that come while the connection is lost are wanted too."""

    def feed(self, result: Message) -> None:
        """Take a result of the subscription: ``broker``, ``symbol``, ``type``, ``status``."""

    def record(self, record: Message, raw: bytes) -> bool:
        """Show a record; return True when it was the last one wanted."""

    def status(self, message: Message) -> None:
        """Take a change of a broker's state, or a gap."""

    def lost(self, why: str, wait_s: float) -> None:
        """Say that the connection is lost and made again after a pause."""

    def connected(self) -> None:
        """Take note of a connection."""

    async def run(self) -> None:
        """Redraw until cancelled; a view that prints as it goes returns."""


async def watch(url: str, wanted: Wanted, view: View, key: str | None) -> None:
    """Show records until the view has enough of them; else until cancelled.

    Raises Unavailable if the server cannot be reached at first, BadMessage for an answer outside of our protocol,
    Rejected if the server refuses anything, even one symbol of several.
    """
    session = _Session(url, wanted, view, key)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.run)
        try:
            await session.run()
        except (Unavailable, Rejected, BadMessage) as error:
            failure = error  # raised outside: the caller wants it, not a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Session:
    def __init__(self, url: str, wanted: Wanted, view: View, key: str | None) -> None:
        self._url = url
        self._wanted = wanted
        self._view = view
        self._headers = [("Authorization", f"Bearer {key}")] if key else []
        self._backoff = Backoff(FIRST_PAUSE_S, MOST_PAUSE_S)
        self._was_connected = False
        self._epoch = ""
        self._seqs: dict[tuple[str, str, str], int] = {}

    async def run(self) -> None:
        while True:
            try:
                async with open_websocket(self._url, silence_s=SILENCE_S, headers=self._headers) as websocket:
                    if await self._connection(websocket):
                        return
            except Unavailable as error:
                if not self._was_connected:
                    raise
                wait_s = self._backoff.next_s()
                self._view.lost(str(error), wait_s)
                await trio.sleep(wait_s)

    async def _connection(self, websocket: WebSocket) -> bool:
        """Return True when the view has enough; a lost connection raises Unavailable."""
        resuming = False
        while True:
            for raw in await websocket.receive():
                message = self._decode(raw)
                if "epoch" in message:
                    resuming = self._view.resumes and message["epoch"] == self._epoch and bool(self._seqs)
                    self._begin(message)
                    for request in self._requests(resuming=resuming):
                        await websocket.send(json.dumps(request))
                elif self._take(message, raw):
                    return True

    def _begin(self, hello: Message) -> None:
        if hello["epoch"] != self._epoch:
            self._seqs.clear()
        self._epoch = hello["epoch"]
        self._was_connected = True
        self._view.connected()

    def _requests(self, *, resuming: bool) -> list[Message]:
        """Return a request for each broker, and behind a lost connection one for what came meanwhile."""
        requests: list[Message] = [
            {"action": "subscribe", "symbols": symbols, "types": self._wanted.types}
            | ({} if broker is None else {"broker": broker})
            for broker, symbols in self._wanted.symbols
        ]
        if resuming:
            seqs = [[*topic, seq] for topic, seq in self._seqs.items()]
            types = sorted({topic[2] for topic in self._seqs})
            since = {"epoch": self._epoch, "seqs": seqs}
            requests.insert(0, {"action": "subscribe", "types": types, "since": since})
        elif not self._view.resumes:
            requests = [{**request, "snapshot": True} for request in requests]
        return requests

    def _take(self, message: Message, raw: bytes) -> bool:
        kind = message.get("type")
        if kind in BY_NAME:
            self._backoff.reset()
            return self._is_new(message) and self._view.record(message, raw)
        if kind in ("status", "gap"):
            self._view.status(message)
        elif kind == "error" and message.get("code") == HISTORY_AWAY and self._seqs:
            self._view.status(message)  # what came meanwhile is not there: live goes on
        else:
            _raise_refusals(message)
            for result in message.get("results", ()):
                self._view.feed(result)
        return False

    def _is_new(self, record: Message) -> bool:
        """Whether a numbered record follows on what was shown; note its number."""
        seq = record.get("seq")
        if seq is None or not self._view.resumes:
            return True
        topic = (record["broker"], record["symbol"], record["type"])
        if BY_NAME[record["type"]].stored is None:
            return True
        if seq <= self._seqs.get(topic, 0):
            return False
        self._seqs[topic] = seq
        return True

    def _decode(self, raw: bytes) -> Message:
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BadMessage(
                f"{self._url}: found a message that is not a JSON object; expected an mdserver at this address"
            )
        return found


def _raise_refusals(message: Message) -> None:
    """Raise Rejected if the server refuses anything; each refusal names its symbol."""
    results = message.get("results")
    refused = [
        _refusal(one)
        for one in (message, *(results if isinstance(results, list) else []))
        if isinstance(one, dict) and "error" in (one.get("type"), one.get("status"))
    ]
    if refused:
        raise Rejected("; ".join(refused))


def _refusal(one: Message) -> str:
    symbol, why = str(one.get("symbol", "")), str(one.get("message"))
    return (
        f"{symbol}: error {one.get('code')}: {why}"
        if symbol not in why
        else f"error {one.get('code')}: {why}"
    )
