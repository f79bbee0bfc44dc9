"""The type of options that name a day."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

__all__ = ["DAY"]


class _Day(click.DateTime):
    """A day in UTC, such as 2024-03-01. Its error shows such a day, where click's shows a pattern of ``strftime``."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """See :class:`click.ParamType`."""
        try:
            found: datetime = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"found {value!r}, expected a day such as 2024-03-01", param, ctx)
        return found


DAY = _Day()
