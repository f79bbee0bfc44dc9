"""Derives from the errors of a session how it ended. Pure."""

from __future__ import annotations

import trio

from ..errors import ConfigError, Rejected, Unavailable, leaves
from .broker_state import Outcome

__all__ = ["judge"]


def judge(group: BaseExceptionGroup[BaseException]) -> tuple[Outcome, BaseException]:
    """Return how a session ended that raised ``group``, and the error that explains it.

    A rejection among other errors decides: it usually caused the others, and trying again would not help.
    """
    errors = list(leaves(group))
    for error in errors:
        if isinstance(error, Rejected | ConfigError):
            return "rejected", error
    for error in errors:
        if not isinstance(error, Unavailable | OSError | trio.TooSlowError | trio.BrokenResourceError):
            return "crashed", error
    return "unavailable", errors[0]
