"""Runs the checks of a case and fills in the scorecard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import trio

from ...errors import leaves
from .broker_checks import BROKER_CHECKS, POLLING_CHECKS
from .cases import BrokerCase, CommandCase, ConformanceCase, HistoryCase, HttpCase
from .command_checks import COMMAND_CHECKS
from .history_checks import HISTORY_CHECKS
from .scorecard import Failed, NotApplicable, Row, Scorecard
from .watch import SessionWatch, nothing_left

__all__ = ["check_names", "conformance_tests", "run_check", "run_suite"]

CHECK_LIMIT_S = 120.0
"""A check that takes longer has failed."""


def run_suite(case: ConformanceCase, *, told: Callable[[Row], None] = lambda _: None) -> Scorecard:
    """Run all checks, one after the other, each in a loop of its own, and return the scorecard. Blocking.

    ``told`` is called with each row as soon as its check has ended.
    """
    rows = []
    for name in check_names(case):
        rows.append(run_check(case, name))
        told(rows[-1])
    return Scorecard(case.plugin.name, _kind(case), tuple(rows))


def run_check(case: ConformanceCase, name: str) -> Row:
    """Run one check and return its row. Blocking; it runs a loop of its own."""
    if reason := case.not_applicable.get(name):
        return Row(name, "not applicable", reason)
    try:
        return Row(name, "ok", trio.run(_bounded, case, name))
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - what a check ended with is its result
        return _row_of(name, error)


def _row_of(name: str, error: BaseException) -> Row:
    """Return the row of a check that ended with ``error``; raise it again if it is the operator's interrupt."""
    found = list(leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in found):
        raise error
    if failed := next((leaf for leaf in found if isinstance(leaf, Failed)), None):
        return Row(name, "failed", str(failed))
    if skipped := next((leaf for leaf in found if isinstance(leaf, NotApplicable)), None):
        return Row(name, "not applicable", str(skipped))
    return Row(name, "failed", f"{type(found[0]).__name__}: {found[0]}")


def check_names(case: ConformanceCase) -> list[str]:
    """Return the names of the checks of a case's kind, in their order."""
    return list(_checks(case))


def conformance_tests(case: ConformanceCase) -> Callable[..., None]:
    """Return a pytest test with one parameter for each check: the one line of a plugin's own tests.

    >>> test_conformance = conformance_tests(AcmeCase())  # doctest: +SKIP
    """
    import pytest  # here only: the command line needs none

    @pytest.mark.parametrize("check", check_names(case))
    def test(check: str) -> None:
        row = run_check(case, check)
        if row.outcome == "not applicable":
            pytest.skip(row.text)
        if row.outcome != "ok":
            pytest.fail(row.text, pytrace=False)

    return test


async def _bounded(case: ConformanceCase, name: str) -> str:
    watch = SessionWatch()
    trio.lowlevel.add_instrument(watch)
    with trio.move_on_after(CHECK_LIMIT_S):
        async with nothing_left(name):
            fact: str = await _checks(case)[name](case, watch)
        return fact
    raise Failed(f"the check did not end within {CHECK_LIMIT_S:g} s")


def _checks(case: ConformanceCase) -> Mapping[str, Callable[..., Any]]:
    kinds: Mapping[str, Mapping[str, Callable[..., Any]]] = {
        "broker": BROKER_CHECKS,
        "history": HISTORY_CHECKS,
        "command": COMMAND_CHECKS,
    }
    more = POLLING_CHECKS if isinstance(case, HttpCase) else {}
    return {**kinds[_kind(case)], **more}


def _kind(case: ConformanceCase) -> Literal["broker", "history", "command"]:
    if isinstance(case, BrokerCase):
        return "broker"
    if isinstance(case, HistoryCase):
        return "history"
    if isinstance(case, CommandCase):
        return "command"
    raise TypeError(f"found {type(case).__name__}, expected a BrokerCase, a HistoryCase or a CommandCase")
