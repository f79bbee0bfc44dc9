"""Finds the case of an installed plugin."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ...errors import PluginError
from ...plugin import BROKER_GROUP, COMMAND_GROUP, HISTORY_GROUP
from .cases import BrokerCase, CommandCase, ConformanceCase, HistoryCase

__all__ = ["CONFORMANCE_GROUP", "find_case"]

CONFORMANCE_GROUP = "mdserver.conformance"
"""Entry points of cases, by the name of the plugin."""

GROUPS = (BROKER_GROUP, HISTORY_GROUP, COMMAND_GROUP)


def find_case(name: str) -> ConformanceCase:
    """Return the case of a plugin: what the entry point of its name in :data:`CONFORMANCE_GROUP` names.

    Else ``case`` of the module ``conformance`` in the package of the plugin. Raises PluginError. Blocking.
    """
    points = list(entry_points(group=CONFORMANCE_GROUP, name=name))
    if not points:
        plugins = [point for group in GROUPS for point in entry_points(group=group, name=name)]
        if not plugins:
            known = sorted({point.name for group in GROUPS for point in entry_points(group=group)})
            raise PluginError(f'no plugin "{name}" is installed; there are {", ".join(known) or "none"}')
        points = [
            EntryPoint(name, f"{point.module.partition('.')[0]}.conformance:case", CONFORMANCE_GROUP)
            for point in plugins
        ]
    return _load(points[0])


def _load(point: EntryPoint) -> ConformanceCase:
    try:
        import_module(point.module)
        found = point.load()
    except ModuleNotFoundError as error:
        if error.name != point.module:
            raise PluginError(f"{point.module} cannot be imported: {error}") from error
        raise PluginError(
            f'the plugin "{point.name}" has no conformance case: expected {point.value}, or an entry point '
            f'"{point.name}" in the group {CONFORMANCE_GROUP}'
        ) from None
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        raise PluginError(f"{point.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, BrokerCase | HistoryCase | CommandCase):
        raise PluginError(
            f"found {found!r} at {point.value}, expected a BrokerCase, HistoryCase or CommandCase"
        )
    return found
