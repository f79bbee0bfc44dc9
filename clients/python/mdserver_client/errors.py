"""What can go wrong, by whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import RefusedResult

__all__ = [
    "ConnectionFailed",
    "MdserverError",
    "NotAuthenticated",
    "ProtocolViolation",
    "Refused",
    "RequestFailed",
    "reason_of",
]


class MdserverError(Exception):
    """Base of all errors. ``code`` is the server's: a number of the WebSocket, a word of HTTP; else None."""

    def __init__(self, message: str, code: int | str | None = None) -> None:
        super().__init__(message)
        self.code = code


class ConnectionFailed(MdserverError):
    """The server cannot be reached, or what answers is no mdserver."""


class ProtocolViolation(MdserverError):
    """The other end speaks something else than the protocol, again and again."""


class NotAuthenticated(MdserverError):
    """The server asks for a key, or does not take this one."""


class Refused(MdserverError):
    """The server refuses a request; ``results`` has the symbols and types where it is about some of them."""

    def __init__(self, message: str, code: int | str | None, results: Sequence[RefusedResult] = ()) -> None:
        super().__init__(message, code)
        self.results = tuple(results)


class RequestFailed(MdserverError):
    """A question to history failed. ``status`` is that of HTTP, ``param`` the parameter to blame or None."""

    def __init__(self, message: str, code: str, status: int, param: str | None = None) -> None:
        super().__init__(message, code)
        self.status = status
        self.param = param


def reason_of(error: BaseException) -> str:
    """Return what went wrong in the words of the error that began it: those around it have none, or a summary."""
    while True:
        behind = error.__cause__ or (None if str(error) else error.__context__)
        if isinstance(behind, BaseExceptionGroup):
            behind = behind.exceptions[0]
        if behind is None:
            return str(error) or type(error).__name__
        error = behind
