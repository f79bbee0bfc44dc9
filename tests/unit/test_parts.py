"""The walk along the daemon's parts: order, deadlines, failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
import trio

from mdserver.daemon.parts import Part, Walk
from mdserver.errors import ConfigError, StoreUnavailable
from mdserver.metrics import Metrics

Told = list[str]


def make(
    name_: str,
    told: Told,
    *,
    needed_: bool = True,
    work: Callable[[], Any] = trio.sleep_forever,
    before: Callable[[], Any] | None = None,
) -> Part:
    class Probe(Part):
        name = name_
        needed = needed_
        stop_s = 2.0

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            if before is not None:
                await before()
            told.append(f"+{name_}")
            task_status.started()
            try:
                await work()
            finally:
                told.append(f"-{name_}")

        async def stop(self) -> None:
            told.append(f"stop {name_}")

    return Probe()


async def run(walk: Walk, told: Told, *, until: float = 5.0) -> None:
    """Run the walk and stop it after some time."""

    async def stop() -> None:
        await trio.sleep(until)
        walk.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await walk.run(
            on_started=lambda: told.append("all"),
            on_stop=lambda: told.append("stopping"),
            on_stuck=lambda: told.append("stuck"),
        )
        nursery.cancel_scope.cancel()


def walk_of(*parts: Part, metrics: Metrics | None = None) -> Walk:
    return Walk(parts, metrics=metrics or Metrics(), log=structlog.get_logger())


IN_ORDER = ["+c", "+b", "+a", "all", "stopping", "stop a", "-a", "stop b", "-b", "stop c", "-c"]


async def test_parts_start_upward_and_stop_downward(autojump_clock: object) -> None:
    told: Told = []
    await run(walk_of(*(make(name, told) for name in "abc")), told)
    assert told == IN_ORDER


async def test_the_order_holds_where_the_whole_is_cancelled(autojump_clock: object) -> None:
    told: Told = []
    walk = walk_of(*(make(name, told) for name in "abc"))
    with trio.move_on_after(1):
        await run(walk, told, until=99)
    assert told == IN_ORDER


@pytest.mark.parametrize("error", [ConfigError(["bad"]), StoreUnavailable("gone")])
async def test_what_a_part_raises_at_its_start_comes_out_when_the_others_are_stopped(
    autojump_clock: object, error: Exception
) -> None:
    async def fail() -> None:
        raise error

    told: Told = []
    walk = walk_of(make("a", told), make("b", told, before=fail), make("c", told))
    with pytest.RaisesGroup(type(error)):
        await run(walk, told)
    assert told == ["+c", "stopping", "stop c", "-c"]


async def test_a_stop_during_the_start_ends_it(autojump_clock: object) -> None:
    told: Told = []
    walk = walk_of(make("a", told), make("b", told, before=trio.sleep_forever), make("c", told))
    await run(walk, told, until=1)
    assert told == ["+c", "stopping", "stop b", "stop c", "-c"]


async def test_a_part_that_is_needed_stops_the_server_in_order(autojump_clock: object) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise ZeroDivisionError("a bug")

    told: Told = []
    metrics = Metrics()
    walk = walk_of(make("a", told), make("b", told, work=fail), make("c", told), metrics=metrics)
    with pytest.RaisesGroup(ZeroDivisionError):
        await run(walk, told, until=99)
    assert told == ["+c", "+b", "+a", "all", "-b", "stopping", "stop a", "-a", "stop c", "-c"]
    assert metrics.registry.get_sample_value("mdserver_part_failures_total", {"part": "b"}) == 1


async def test_a_part_whose_work_can_wait_is_tried_again(autojump_clock: object) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        if told.count("+b") < 4:
            raise ZeroDivisionError("a bug")
        await trio.sleep_forever()

    told: Told = []
    metrics = Metrics()
    walk = walk_of(make("a", told), make("b", told, needed_=False, work=fail), metrics=metrics)
    await run(walk, told, until=60)
    assert told.count("+b") == 4
    assert told.count("+a") == 1
    assert metrics.registry.get_sample_value("mdserver_part_failures_total", {"part": "b"}) == 3


async def test_a_part_that_cannot_start_and_can_wait_holds_nobody_up(autojump_clock: object) -> None:
    async def fail() -> None:
        raise OSError("no disk")

    told: Told = []
    await run(walk_of(make("a", told), make("b", told, needed_=False, before=fail)), told)
    assert told[:2] == ["+a", "all"]


async def test_a_part_that_will_not_end_does_not_keep_the_others(autojump_clock: object) -> None:
    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    told: Told = []
    walk = walk_of(make("a", told, work=shielded), make("b", told))
    began = trio.current_time()
    walk_stuck: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, walk, 1)
        await walk.run(
            on_started=lambda: None,
            on_stop=lambda: None,
            on_stuck=lambda: walk_stuck.append(trio.current_time() - began),
        )
    assert walk.stuck == ["a"]
    assert told[:5] == ["+b", "+a", "stop a", "stop b", "-b"]
    assert walk_stuck[0] < 1 + 2.1


async def stop_after(walk: Walk, seconds: float) -> None:
    await trio.sleep(seconds)
    walk.stop()


async def test_a_stop_that_fails_or_hangs_is_cut(autojump_clock: object) -> None:
    class Odd(Part):
        name = "odd"

        def __init__(self, *, hang: bool) -> None:
            self.hang = hang

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await trio.sleep_forever()

        async def stop(self) -> None:
            if self.hang:
                await trio.sleep_forever()
            raise ValueError("a bug")

    told: Told = []
    await run(walk_of(Odd(hang=True), Odd(hang=False), make("c", told)), told)
    assert told[-2:] == ["stop c", "-c"]
