"""Finds the case of an installed plugin."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from ...errors import PluginError
from ...plugin import BROKER_GROUP, COMMAND_GROUP, HISTORY_GROUP
from ...plugin_folders import folder_points
from .cases import BrokerCase, CommandCase, ConformanceCase, HistoryCase

__all__ = ["CONFORMANCE_GROUP", "find_case"]

CONFORMANCE_GROUP = "mdserver.conformance"
"""Entry points of cases, by the name of the plugin."""

GROUPS = (BROKER_GROUP, HISTORY_GROUP, COMMAND_GROUP)


def find_case(name: str, folders: Iterable[Path] = ()) -> ConformanceCase:
    """Return the case of a plugin.

    It is the object of the entry point with the plugin's name in :data:`CONFORMANCE_GROUP`. Without such an entry point
    it is ``case`` in the module ``conformance`` of the plugin's package, or, for a plain module in one of ``folders``,
    ``case`` in that module. Raises PluginError. Blocking.
    """
    points = list(entry_points(group=CONFORMANCE_GROUP, name=name))
    if not points:
        plugins = [point for group in GROUPS for point in entry_points(group=group, name=name)]
        in_folders = folder_points(folders)
        if not plugins and (point := next((one for one in in_folders if one.name == name), None)):
            point.load()
            inner = point.path.stem + (".conformance" if point.path.is_dir() else "")
            return _load(EntryPoint(name, f"{inner}:case", CONFORMANCE_GROUP))
        if not plugins:
            known = {point.name for group in GROUPS for point in entry_points(group=group)}
            known |= {point.name for point in in_folders}
            raise PluginError(
                f'no plugin "{name}" is installed; there are {", ".join(sorted(known)) or "none"}'
            )
        points = [
            EntryPoint(name, f"{plugin.module.partition('.')[0]}.conformance:case", CONFORMANCE_GROUP)
            for plugin in plugins
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
