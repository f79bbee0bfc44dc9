"""The interpreter's settings: what the start left is not walked again, and memory stays in bounds all the same."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mdserver.daemon import interpreter


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, turn_s = gc.get_threshold(), sys.getswitchinterval()
    yield
    sys.setswitchinterval(turn_s)
    gc.unfreeze()
    gc.set_threshold(*before)


class Leaf:
    """Holds memory and itself: only a collection frees it."""

    def __init__(self, size: int) -> None:
        self.held = bytearray(size)
        for at in range(0, size, 4096):
            self.held[at] = 1  # so that it is resident
        self.itself = self


def test_what_the_start_left_is_not_walked_again() -> None:
    gc.unfreeze()
    interpreter.settle()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    assert len(gc.get_objects()) < frozen / 10
    later = Leaf(1)
    interpreter.settle()  # as after a reload
    assert not any(found is later for found in gc.get_objects())


async def test_old_cycles_go_when_memory_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "CHECK_S", 0.01)
    monkeypatch.setattr(interpreter, "GROWTH", 1.01)
    monkeypatch.setattr(interpreter, "LEAST_GROWTH_BYTES", 1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interpreter.keep_memory_in_bounds)
        await trio.testing.wait_all_tasks_blocked()
        leaf = Leaf(64 << 20)
        gc.collect(1)
        gc.collect(1)  # old by now: no young collection finds it
        gone = weakref.ref(leaf)
        del leaf
        gc.collect(1)
        assert gone() is not None
        with trio.fail_after(30):
            while gone() is not None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def test_threads_take_short_turns() -> None:
    interpreter.settle()
    assert sys.getswitchinterval() < 0.0005
