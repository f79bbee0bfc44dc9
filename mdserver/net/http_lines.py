"""Splits a stream of bytes into lines, without I/O."""

from __future__ import annotations

__all__ = ["LineReader", "LineTooLong"]


class LineTooLong(Exception):
    """A line has more bytes than the reader allows."""


class LineReader:
    r"""Splits a stream of bytes at ``\n``, independent of how the bytes are split into reads.

    Bytes are joined before anything is decoded, so a split inside a multi-byte character does no harm.
    """

    def __init__(self, *, max_line_bytes: int) -> None:
        self._max_bytes = max_line_bytes
        self._held = bytearray()

    @property
    def held(self) -> int:
        """The number of bytes of the incomplete line."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        r"""Return the lines that ``data`` completes, without ``\n`` or ``\r\n``; blank ones are left out.

        Raises LineTooLong, after which the reader is of no further use.
        """
        head, separator, rest = data.partition(b"\n")
        if not separator:
            self._hold(data)
            return []
        self._hold(head)
        lines = [bytes(self._held), *rest.split(b"\n")]
        self._held.clear()
        self._hold(lines.pop())
        if max(map(len, lines)) > self._max_bytes:
            raise LineTooLong(f"a line of more than {self._max_bytes} bytes")
        return [line for line in map(bytes.strip, lines) if line]

    def _hold(self, data: bytes) -> None:
        # Extends a bytearray instead of joining each time, so a long line in tiny reads costs linear time.
        self._held += data
        if len(self._held) > self._max_bytes:
            raise LineTooLong(f"a line of more than {self._max_bytes} bytes")
