"""What differs between two configs: what a reload has to do, and what only a restart can. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from .sections import BrokerEntry, Config

__all__ = ["BrokerChanges", "broker_changes", "changed_settings"]


def changed_settings(old: Config, new: Config) -> frozenset[str]:
    """Return the settings that differ, as dotted paths such as ``server.port``; a list is one setting."""
    changed = set()
    for field in attrs.fields(Config):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if attrs.has(type(before)) and type(before) is type(after):
            inner = (f.name for f in attrs.fields(type(before)))
            changed |= {f"{field.name}.{key}" for key in inner if getattr(before, key) != getattr(after, key)}
        else:
            changed.add(field.name)
    return frozenset(changed)


@attrs.frozen
class BrokerChanges:
    """What makes the brokers of one config those of another. A broker in none of these lists runs on as it is.

    ``removed`` first: one with another plugin is removed and added. ``restarted`` keep their subscribers and begin a
    new session; of ``changed`` no session need end: symbols, record types and what applies from the next session on.
    ``order`` names all brokers.
    """

    removed: tuple[str, ...]
    added: tuple[BrokerEntry, ...]
    restarted: tuple[BrokerEntry, ...]
    changed: tuple[BrokerEntry, ...]
    order: tuple[str, ...]


def broker_changes(old: Sequence[BrokerEntry], new: Sequence[BrokerEntry]) -> BrokerChanges:
    """Return what leads from some brokers to others; those that are switched off count as not there."""
    before, after = _enabled(old), _enabled(new)
    same = {name for name in before.keys() & after.keys() if before[name].plugin == after[name].plugin}
    differ = [after[name] for name in after if name in same and before[name] != after[name]]
    restarted = tuple(entry for entry in differ if entry.settings != before[entry.name].settings)
    return BrokerChanges(
        removed=tuple(name for name in before if name not in same),
        added=tuple(entry for name, entry in after.items() if name not in same),
        restarted=restarted,
        changed=tuple(entry for entry in differ if entry not in restarted),
        order=tuple(after),
    )


def _enabled(entries: Sequence[BrokerEntry]) -> Mapping[str, BrokerEntry]:
    return {entry.name: entry for entry in entries if entry.enabled}
