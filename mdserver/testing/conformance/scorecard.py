"""The result of the suite: a row for each check."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

__all__ = ["Failed", "NotApplicable", "Outcome", "Row", "Scorecard", "quoted"]

Outcome: TypeAlias = Literal["ok", "failed", "not applicable"]

_MARKS: dict[Outcome, str] = {"ok": "ok", "failed": "FAILED", "not applicable": "-"}


class Failed(AssertionError):
    """A plugin does not meet a requirement; the message has what was found and what was expected."""


class NotApplicable(Exception):
    """A check does not apply to a plugin; the message has the reason."""


def quoted(text: str | None, most: int = 100) -> str:
    """Return a text in quotation marks, shortened to ``most`` characters where an ellipsis says so."""
    text = text or ""
    return f"“{text if len(text) <= most else text[: most - 1] + '…'}”"


@attrs.frozen
class Row:
    """One check: its name, its result, and a fact or the reason."""

    check: str
    outcome: Outcome
    text: str


@attrs.frozen
class Scorecard:
    """All checks of one plugin."""

    plugin: str
    kind: Literal["broker", "history", "command"]
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Return whether no check has failed."""
        return all(row.outcome != "failed" for row in self.rows)

    def lines(self) -> list[str]:
        """Return the scorecard as lines of text."""
        width = max((len(row.check) for row in self.rows), default=0)
        body = [f"  {_MARKS[row.outcome]:<6}  {row.check:<{width}}  {row.text}" for row in self.rows]
        count = {outcome: sum(row.outcome == outcome for row in self.rows) for outcome in _MARKS}
        end = f"{count['ok']} passed, {count['failed']} failed, {count['not applicable']} not applicable"
        return [f"{self.plugin} ({self.kind})", *body, f"{self.plugin}: {end}"]
