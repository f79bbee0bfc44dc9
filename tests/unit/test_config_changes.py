"""The difference of two configs: applied to the one it gives the other, and it touches nothing else."""

from __future__ import annotations

from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st

from mdserver.config import (
    BackoffConfig,
    BrokerEntry,
    Config,
    DatabaseConfig,
    LogConfig,
    ServerConfig,
    broker_changes,
    changed_settings,
)


@attrs.frozen
class Settings:
    """A plugin's."""

    api_key: str


entries = st.builds(
    BrokerEntry,
    name=st.sampled_from("abcde"),
    plugin=st.sampled_from("pq"),
    enabled=st.booleans(),
    symbols=st.lists(st.sampled_from(["EURUSD", "BTCUSDT"]), unique=True).map(tuple),
    backoff=st.sampled_from([BackoffConfig(), BackoffConfig(2, 3)]),
    settings=st.builds(Settings, st.sampled_from("xy")),
)
broker_lists = st.lists(entries, max_size=5, unique_by=lambda entry: entry.name)


@given(broker_lists, broker_lists)
def test_the_changes_of_brokers_lead_from_one_config_to_the_other(
    old: list[BrokerEntry], new: list[BrokerEntry]
) -> None:
    running = {entry.name: entry for entry in old if entry.enabled}
    wanted = {entry.name: entry for entry in new if entry.enabled}
    changes = broker_changes(old, new)
    for name in changes.removed:
        del running[name]
    for entry in changes.added:
        assert entry.name not in running
        running[entry.name] = entry
    for entry in changes.restarted:
        before = running[entry.name]
        assert (before.plugin, before.settings != entry.settings) == (entry.plugin, True)
        running[entry.name] = entry
    for entry in changes.changed:
        before = running[entry.name]
        assert before != entry
        assert (before.plugin, before.settings) == (entry.plugin, entry.settings)
        running[entry.name] = entry
    assert running == wanted
    assert changes.order == tuple(wanted)


@given(broker_lists)
def test_what_did_not_change_is_left_alone(brokers: list[BrokerEntry]) -> None:
    changes = broker_changes(brokers, brokers)
    assert (changes.removed, changes.added, changes.restarted, changes.changed) == ((), (), (), ())


def test_changed_settings_are_named_by_their_paths() -> None:
    old = Config(data_dir=Path("/a"))
    new = Config(
        data_dir=Path("/b"),
        server=ServerConfig(port=1, max_symbols=2),
        database=DatabaseConfig(url="postgresql://me:secret@db/x"),
        log=LogConfig(level="debug"),
        brokers=(BrokerEntry("a", "a"),),
    )
    assert changed_settings(old, new) == {
        "data_dir",
        "server.port",
        "server.max_symbols",
        "database.url",
        "log.level",
        "brokers",
    }
    assert changed_settings(new, new) == frozenset()
