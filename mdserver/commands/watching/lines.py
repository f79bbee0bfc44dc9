"""Records as lines, for pipes: in words, or as the JSON that was received."""

from __future__ import annotations

import click

from .session import Message

__all__ = ["Lines"]


class Lines:
    """Prints each record; changes of brokers and of the connection go to standard error."""

    resumes = True

    def __init__(self, *, as_json: bool, count: int | None = None) -> None:
        self._as_json = as_json
        self._left = count

    def record(self, record: Message, raw: bytes) -> bool:
        """Print a record."""
        click.echo(raw.decode() if self._as_json else _line(record))
        if self._left is None:
            return False
        self._left -= 1
        return self._left == 0

    def status(self, message: Message) -> None:
        """Print what is no record to standard error."""
        if message.get("type") == "gap":
            text = f"records of {message.get('broker')} {message.get('symbol')} may be missing: {message.get('cause')}"
        elif "broker" in message:
            text = f"{message['broker']} is {message.get('state')}: {message.get('message')}"
        elif message.get("type") == "error":
            text = str(message.get("message"))
        else:
            return  # the seam of a replay
        click.echo(f"mdserver: {text}", err=True)

    def lost(self, why: str, wait_s: float) -> None:
        """Say it on standard error."""
        click.echo(f"mdserver: {why}; trying again in {wait_s:.1f} s", err=True)

    def feed(self, result: Message) -> None:
        """Nothing to show."""

    def connected(self) -> None:
        """Nothing to show."""

    async def run(self) -> None:
        """Nothing to redraw."""


def _line(record: Message) -> str:
    """Return ``mock EURUSD tick 12: time=1710918000.5 bid=1.087 ask=1.0871``."""
    rest = dict(record)
    head = [str(rest.pop(key, "?")) for key in ("broker", "symbol", "type", "seq")]
    values = " ".join(f"{key}={value}" for key, value in rest.items() if value is not None)
    return f"{' '.join(head)}: {values}"
