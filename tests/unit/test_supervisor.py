"""Sessions, backoff and state, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mdserver.backoff import Backoff
from mdserver.errors import Rejected, Unavailable
from mdserver.feed.broker_host import Host
from mdserver.feed.broker_state import NEXT, State, StateHistory
from mdserver.feed.demand import BrokerDemand
from mdserver.feed.supervised_broker import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    CRASHES_WITHIN_S,
    MAX_CRASHES,
    START_TIMEOUT_S,
    SupervisedBroker,
)
from mdserver.feed.supervisor import Supervisor
from mdserver.metrics import Metrics
from mdserver.model import Feed, Gap, Published, Tick
from mdserver.plugin import BrokerPlugin


def supervised(
    session: Callable[..., Any],
    *,
    silence_s: float | None = None,
    name: str = "x",
    emit: Callable[[list[Published]], None] = lambda _: None,
    symbol: str = "A",
) -> SupervisedBroker:
    class Scripted:
        async def run(self, host: Any, *, task_status: Any) -> None:
            await session(host, task_status)

    metrics, demand = Metrics(), BrokerDemand([Feed(symbol, "tick")])
    host = Host(
        name,
        demand,
        emit=emit,
        last_records={},
        metrics=metrics,
        log=structlog.get_logger(),
    )
    plugin = BrokerPlugin(name, "", object, lambda _: None, silence_s=silence_s)
    return SupervisedBroker(plugin, Scripted, demand, host, metrics)


async def run_for(seconds: float, *brokers: SupervisedBroker) -> None:
    with trio.move_on_after(seconds):
        await Supervisor(brokers).run()


async def test_an_error_with_half_a_character_is_told_all_the_same(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        raise Unavailable("venue says \ud83d")

    broker = supervised(session)
    told: list[str] = []
    broker.listeners.append(lambda _broker, _state, message: told.append(message))
    await run_for(3, broker)
    assert broker.last_error == "venue says ?"
    assert "".join(told).encode()


async def test_a_secret_in_an_error_is_not_told(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        raise Unavailable("ws://venue/stream?token=hunter2hunter2: cannot connect")

    broker = supervised(session)
    told: list[str] = []
    broker.listeners.append(lambda _broker, _state, message: told.append(message))
    await run_for(3, broker)
    assert "hunter2" not in "".join([*told, str(broker.snapshot())])
    assert "cannot connect" in str(broker.last_error)


async def test_a_session_that_ends_is_restarted_with_growing_pauses(autojump_clock: object) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        starts.append(trio.current_time())
        raise Unavailable("gone")

    broker = supervised(session)
    await run_for(600, broker)
    pauses = [b - a for a, b in pairwise(starts)]
    assert max(pauses) <= BACKOFF_MAX_S + 0.001
    assert min(pauses) >= 0.5
    assert sum(pauses[6:]) / len(pauses[6:]) > 10
    assert broker.last_error == "gone"
    assert broker.state == "stopped"


async def test_retry_after_is_honoured(autojump_clock: object) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        starts.append(trio.current_time())
        raise Unavailable("busy", retry_after_s=120)

    await run_for(200, supervised(session))
    assert starts[1] - starts[0] >= 120


async def test_a_stable_minute_resets_the_backoff(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        await trio.sleep(61)

    broker = supervised(session)
    await run_for(61 * 20, broker)
    assert broker.attempt <= 1


async def test_rejected_means_failed_while_others_go_on(autojump_clock: object) -> None:
    async def rejected(host: Any, task_status: Any) -> None:
        raise Rejected("bad key")

    async def fine(host: Any, task_status: Any) -> None:
        task_status.started()
        await trio.sleep_forever()

    bad, good = supervised(rejected), supervised(fine, name="y")
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_for, 10, bad, good)
        await trio.sleep(5)
        seen = [bad.snapshot().state, good.snapshot().state]
    assert seen == ["failed", "live"]
    assert bad.snapshot().last_error == "bad key"
    assert bad.demand.refused() == {Feed("A", "tick"): "x has failed: bad key"}


async def test_a_crash_is_logged_and_tried_again_a_bounded_number_of_times(autojump_clock: object) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        starts.append(trio.current_time())
        raise ZeroDivisionError("a bug")

    broker = supervised(session)
    with capture_logs() as logs:
        await run_for(10_000, broker)
    assert [line["event"] for line in logs].count("broker crashed") == MAX_CRASHES
    assert len(starts) == MAX_CRASHES
    assert broker.state == "failed"
    assert broker.last_error == "a bug"


async def test_crashes_far_apart_do_not_add_up(autojump_clock: object) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        starts.append(trio.current_time())
        await trio.sleep(CRASHES_WITHIN_S / (MAX_CRASHES - 1))
        raise ZeroDivisionError("a rare bug")

    broker = supervised(session)
    with capture_logs():  # printing tracebacks would take most of the time
        await run_for(3 * CRASHES_WITHIN_S, broker)
    assert len(starts) > 2 * MAX_CRASHES
    assert broker.state != "failed"


async def test_what_comes_after_a_lost_session_follows_a_gap(autojump_clock: object) -> None:
    seconds = iter((1, 9))

    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        host.publish([Tick("A", 1_710_918_000_000_000 + next(seconds) * 1_000_000, 1.1, 1.2)])
        raise Unavailable("gone")

    told: list[Published] = []
    broker = supervised(session, emit=told.extend)
    await run_for(3, broker)
    gaps = [published.record for published in told if isinstance(published.record, Gap)]
    assert [(gap.cause, gap.time_us - gap.from_us) for gap in gaps if gap.to_us] == [
        ("disconnected", 8_000_000)
    ]
    assert gaps[0].to_us is None  # at once


async def test_a_session_that_never_starts_is_ended_after_a_minute_and_tried_again(
    autojump_clock: object,
) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        starts.append(trio.current_time())
        await trio.sleep_forever()

    broker = supervised(session)
    states: list[str] = []
    broker.listeners.append(lambda _broker, state, _message: states.append(state))
    await run_for(63, broker)
    assert len(starts) == 2
    assert START_TIMEOUT_S < starts[1] - starts[0] <= START_TIMEOUT_S + 2 * BACKOFF_FIRST_S
    assert states[:3] == ["starting", "backoff", "starting"]
    assert broker.last_error


async def test_silence_ends_a_session_and_heartbeats_do_not(autojump_clock: object) -> None:
    starts = {"quiet": 0, "beating": 0}

    async def quiet(host: Any, task_status: Any) -> None:
        starts["quiet"] += 1
        task_status.started()
        await trio.sleep_forever()

    async def beating(host: Any, task_status: Any) -> None:
        starts["beating"] += 1
        task_status.started()
        while True:
            await trio.sleep(5)
            host.alive()

    broker = supervised(quiet, silence_s=30, symbol="BTCUSDT")
    await run_for(400, broker, supervised(beating, silence_s=30, name="y"))
    assert starts["quiet"] > 2
    assert starts["beating"] == 1
    assert "nothing from the venue for" in (broker.last_error or "")


async def test_silence_without_demand_is_no_fault(autojump_clock: object) -> None:
    starts = []

    async def quiet(host: Any, task_status: Any) -> None:
        starts.append(1)
        task_status.started()
        host.refuse([Feed("A", "tick")], "not here")
        await trio.sleep_forever()

    await run_for(400, supervised(quiet, silence_s=30))
    assert len(starts) == 1


async def test_a_session_that_returns_counts_as_ended(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        task_status.started()

    broker = supervised(session)
    await run_for(3, broker)
    assert broker.last_error == "the venue ended the session"


async def test_degraded_shows_what_was_refused() -> None:
    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        host.refuse([Feed("A", "tick")], "no such symbol")
        await trio.sleep_forever()

    broker = supervised(session)
    live = trio.Event()
    broker.listeners.append(lambda _broker, state, _message: live.set() if state == "live" else None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await live.wait()
        state = broker.snapshot()
        nursery.cancel_scope.cancel()
    assert state.state == "degraded"
    assert state.refused == {"A tick": "no such symbol"}


@pytest.mark.parametrize("ending", [SystemExit(3), BaseExceptionGroup("nursery", [SystemExit(3)])])
async def test_a_plugin_that_exits_ends_its_session_alone(
    autojump_clock: object, ending: BaseException
) -> None:
    async def exits(host: Any, task_status: Any) -> None:
        task_status.started()
        raise ending

    async def fine(host: Any, task_status: Any) -> None:
        task_status.started()
        await trio.sleep_forever()

    bad, good = supervised(exits), supervised(fine, name="y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_for, 3000, bad, good)
        await trio.sleep(2900)
        assert [bad.snapshot().state, good.snapshot().state] == ["failed", "live"]
    assert bad.attempt == MAX_CRASHES


@pytest.mark.parametrize("others", [[Unavailable("torn down")], [OSError("reset"), ZeroDivisionError("x")]])
async def test_a_rejection_beside_other_errors_is_a_rejection(
    autojump_clock: object, others: list[Exception]
) -> None:
    async def session(host: Any, task_status: Any) -> None:
        raise ExceptionGroup("nursery", [*others, ExceptionGroup("inner", [Rejected("bad key")])])

    broker = supervised(session)
    await run_for(600, broker)
    assert (broker.state, broker.last_error, broker.attempt) == ("failed", "bad key", 1)


async def test_never_calling_started_is_said_in_a_sentence(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        await trio.sleep_forever()

    broker = supervised(session)
    await run_for(61, broker)
    assert broker.last_error == (
        "not connected within 60 s: the plugin's run() has not called task_status.started()"
    )


async def forever(host: Any, task_status: Any) -> None:
    task_status.started()
    await trio.sleep_forever()


async def test_brokers_come_and_go_while_the_others_run(autojump_clock: object) -> None:
    first, second = supervised(forever), supervised(forever, name="y")
    supervisor = Supervisor([first])
    told: list[str] = []
    supervisor.follow(
        lambda broker: told.append(f"+{broker.name}"), lambda broker: told.append(f"-{broker.name}")
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(1)
        supervisor.add(second)
        await trio.sleep(1)
        assert [state.state for state in supervisor.states()] == ["live", "live"]
        with pytest.raises(ValueError, match='found a second broker "y"'):
            supervisor.add(second)
        assert await supervisor.remove("x", "removed from the config")
        assert list(supervisor.brokers) == ["y"]
        assert first.demand.refused() == {Feed("A", "tick"): "x was stopped: removed from the config"}
        assert second.snapshot().state == "live"
        nursery.cancel_scope.cancel()
    assert told == ["+x", "+y", "-x"]


async def test_a_broker_that_will_not_stop_stays_until_it_does(autojump_clock: object) -> None:
    async def shielded(host: Any, task_status: Any) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    broker = supervised(shielded)
    supervisor = Supervisor([broker])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(1)
        assert not await supervisor.remove("x", "removed")
        assert trio.current_time() < 10
        assert supervisor.brokers == {"x": broker}
        await trio.sleep(30)
        assert await supervisor.remove("x", "removed")
        nursery.cancel_scope.cancel()


async def test_a_restart_revives_what_had_failed_and_the_next_within_moments_waits(
    autojump_clock: object,
) -> None:
    starts: list[float] = []

    async def rejected(host: Any, task_status: Any) -> None:
        starts.append(trio.current_time())
        raise Rejected("bad key")

    broker = supervised(rejected)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await trio.sleep(100)
        for _ in range(3):
            assert await broker.restart("asked for")
            await trio.sleep(0.001)
        await trio.sleep(50)
        assert broker.state is State.FAILED
        nursery.cancel_scope.cancel()
    pauses = [b - a for a, b in pairwise(starts)]
    assert pauses[0] == pytest.approx(100)  # at once
    assert all(pause >= BACKOFF_FIRST_S for pause in pauses[1:])


async def test_a_restart_ends_a_pause_and_takes_other_settings(autojump_clock: object) -> None:
    async def busy(host: Any, task_status: Any) -> None:
        raise Unavailable("busy", retry_after_s=3000)

    class Fine:
        async def run(self, host: Any, *, task_status: Any) -> None:
            await forever(host, task_status)

    broker = supervised(busy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await trio.sleep(10)
        assert broker.state is State.BACKOFF
        broker.reconfigure(Fine, Backoff(1, 2))
        assert await broker.restart("its config has changed")
        await trio.sleep(1)
        assert broker.state is State.LIVE
        assert any("its config has changed" in change.message for change in broker.snapshot().changes)
        nursery.cancel_scope.cancel()


async def test_one_that_will_not_stop_is_restarted_when_it_has(autojump_clock: object) -> None:
    starts: list[float] = []

    async def shielded(host: Any, task_status: Any) -> None:
        starts.append(trio.current_time())
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        await trio.sleep_forever()

    broker = supervised(shielded)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await trio.sleep(1)
        assert not await broker.restart("asked for")
        assert trio.current_time() - starts[0] < 10
        await trio.sleep(20)
        assert len(starts) == 2
        nursery.cancel_scope.cancel()
        starts.clear()


async def test_a_session_that_published_before_it_was_live_leaves_a_gap(autojump_clock: object) -> None:
    async def session(host: Any, task_status: Any) -> None:
        host.publish([Tick("A", 1_700_000_000_000_000 + int(trio.current_time() * 1e6), 1.0, 1.1)])
        raise Unavailable("gone before it began")

    told: list[Published] = []
    await run_for(5, supervised(session, emit=told.extend))
    shown = ["gap" if isinstance(one.record, Gap) else "tick" for one in told]
    assert shown[:6] == ["tick", "gap", "gap", "tick", "gap", "gap"], "as it begins, and as it ends"


async def test_a_restarted_session_leaves_a_gap_with_its_cause(autojump_clock: object) -> None:
    seconds = iter((1, 9))

    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        host.publish([Tick("A", 1_710_918_000_000_000 + next(seconds) * 1_000_000, 1.1, 1.2)])
        await trio.sleep_forever()

    told: list[Published] = []
    broker = supervised(session, emit=told.extend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await trio.sleep(10)
        await broker.restart("asked for")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    gaps = [published.record for published in told if isinstance(published.record, Gap)]
    assert [(gap.cause, gap.to_us is None) for gap in gaps[:2]] == [("restart", True), ("restart", False)]


async def test_crashes_within_ten_minutes_add_up_though_sessions_are_stable(autojump_clock: object) -> None:
    starts = []

    async def session(host: Any, task_status: Any) -> None:
        task_status.started()
        starts.append(trio.current_time())
        await trio.sleep(70)
        raise ZeroDivisionError("a bug")

    broker = supervised(session)
    with capture_logs():
        await run_for(3000, broker)
    assert (len(starts), broker.state) == (MAX_CRASHES, State.FAILED)


async def test_a_refusal_of_the_config_degrades_and_a_clients_does_not(autojump_clock: object) -> None:
    broker = supervised(forever)
    states: list[str] = []
    broker.listeners.append(lambda _broker, state, _message: states.append(str(state)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await trio.sleep(1)
        broker.demand.hold(Feed("B", "tick"))
        broker.host.refuse([Feed("B", "tick")], "no such symbol")
        assert states == ["starting", "live"]
        broker.host.refuse([Feed("A", "tick")], "no such symbol")
        broker.host.refuse([Feed("A", "tick")], "no such symbol")
        assert states == ["starting", "live", "degraded"]
        broker.host.confirm([Feed("A", "tick")])
        assert states == ["starting", "live", "degraded", "live"]
        nursery.cancel_scope.cancel()


def test_errors_and_changes_are_kept_newest_first_and_bounded() -> None:
    history = StateHistory("x", metrics := Metrics())
    for n in range(100):
        history.enter(State.STARTING, f"connecting {n}")
        history.note_error("unavailable", f"error {n}")
        history.enter(State.BACKOFF, f"pause {n}")
    assert history.last_error == "error 99"
    assert [error.message for error in history.errors][:2] == ["error 99", "error 98"]
    assert [change.message for change in history.changes][:2] == ["pause 99", "connecting 99"]
    assert len(history.errors) == len(history.changes) == 10
    sample = metrics.registry.get_sample_value
    assert sample("mdserver_broker_state", {"broker": "x", "state": "backoff"}) == 1
    assert sample("mdserver_broker_state", {"broker": "x", "state": "starting"}) == 0
    assert sample("mdserver_broker_state_changes_total", {"broker": "x", "state": "backoff"}) == 100


@given(st.lists(st.sampled_from(list(State)), max_size=20))
def test_a_state_follows_only_one_that_it_may_follow(wanted: list[State]) -> None:
    history = StateHistory("x", Metrics())
    for state in wanted:
        before = history.state
        if state in NEXT[before] or state is before:
            assert history.enter(state, "") is (state is not before or state is State.STARTING)
        else:
            with pytest.raises(ValueError, match=f"found {state} after {before}"):
                history.enter(state, "")
            assert history.state is before
