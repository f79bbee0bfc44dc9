"""Entry points -> plugin descriptors, at start. A plugin that cannot be used is reported; the rest load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import attrs
import click

from .config import LakeConfig
from .errors import ConfigError, PluginError, Rejected
from .kinds import BY_NAME
from .plugin import (
    API_VERSION,
    BROKER_GROUP,
    COMMAND_GROUP,
    HISTORY_GROUP,
    LAKE_GROUP,
    BrokerPlugin,
    CommandPlugin,
    HistoryPlugin,
    Lake,
    LakePlugin,
)
from .plugin_folders import FolderPoint, folder_points

__all__ = [
    "InstalledPlugin",
    "PluginProblem",
    "check_descriptor",
    "command_names",
    "installed_plugins",
    "load_brokers",
    "load_command",
    "load_history",
    "load_lake",
    "open_lake",
    "plugin_code",
    "stand_in",
]

OWN_DISTRIBUTION = "mdserver"

NO_LAKE_PLUGIN = (
    "the data lake needs the plugin mdserver-lake, which is not installed: pip install mdserver-lake"
)

Folders: TypeAlias = Sequence[Path]

Descriptor: TypeAlias = BrokerPlugin | CommandPlugin | HistoryPlugin | LakePlugin
P = TypeVar("P", BrokerPlugin, CommandPlugin, HistoryPlugin, LakePlugin)


@attrs.frozen
class PluginProblem:
    """Why a plugin cannot be used. ``name`` is that of its entry point."""

    name: str
    distribution: str
    message: str

    def __str__(self) -> str:
        return f"plugin {self.name} of {self.distribution}: {self.message}"


@attrs.frozen
class InstalledPlugin:
    """One row of ``mdserver plugins``: what is installed, from where, and what is wrong with it if anything."""

    name: str
    kind: str
    distribution: str
    version: str
    summary: str
    problem: str | None = None


@attrs.frozen
class _Loaded:
    row: InstalledPlugin
    descriptor: Descriptor | None


def load_brokers(folders: Folders = ()) -> tuple[dict[str, BrokerPlugin], list[PluginProblem]]:
    """Return the usable broker plugins by name, and the problems of the others. Imports them; blocking.

    ``folders`` are those in which plain modules are plugins too: here, and below.
    """
    return _usable(_load("broker", BROKER_GROUP, BrokerPlugin, _check_broker, folders=folders))


def stand_in(problem: PluginProblem) -> BrokerPlugin:
    """Return a stand-in for a plugin that cannot be used: its brokers are shown as failed, with the reason."""

    def refuse(_: object) -> NoReturn:
        raise Rejected(f"its plugin cannot be used: {problem}")

    return BrokerPlugin(problem.name, "cannot be used", type(None), refuse, types=tuple(BY_NAME))


def command_names(folders: Folders = ()) -> list[str]:
    """Return the names of all command plugins, in order. Imports none but those in ``folders``; blocking."""
    return sorted({point.name for point in _points(COMMAND_GROUP, folders)})


def load_command(name: str, folders: Folders = ()) -> CommandPlugin | PluginProblem | None:
    """Return one command plugin, or why it cannot be used; None if no plugin has this name.

    Imports no other but those in ``folders``: the start of a command should not wait for what it does not need.
    Blocking.
    """
    loaded = _load("command", COMMAND_GROUP, CommandPlugin, _check_command, name, folders)
    plugins, problems = _usable(loaded)
    return plugins.get(name) or next(iter(problems), None)


def load_history(folders: Folders = ()) -> tuple[dict[str, HistoryPlugin], list[PluginProblem]]:
    """Return the usable history plugins by name, and the problems of the others. Imports them; blocking."""
    return _usable(_load("history", HISTORY_GROUP, HistoryPlugin, _check_history, folders=folders))


def load_lake(folders: Folders = ()) -> LakePlugin | PluginProblem | None:
    """Return the plugin that reads and writes data lakes, or why it cannot be used; None if none is installed.

    Imports it; blocking.
    """
    plugins, problems = _usable(_load("lake", LAKE_GROUP, LakePlugin, _check_lake, folders=folders))
    return next(iter(plugins.values()), None) or next(iter(problems), None)


def open_lake(settings: LakeConfig, folders: Folders = ()) -> Lake:
    """Return the lake of the config. Raises ConfigError where it names none, PluginError without a plugin. Blocking."""
    if settings.url is None:
        raise ConfigError(["lake.url: missing, expected s3://BUCKET/PREFIX or file:///FOLDER"])
    plugin = load_lake(folders)
    if plugin is None:
        raise PluginError(NO_LAKE_PLUGIN)
    if isinstance(plugin, PluginProblem):
        raise PluginError(str(plugin))
    return plugin.factory(settings)


def installed_plugins(folders: Folders = ()) -> list[InstalledPlugin]:
    """Return every installed plugin, usable or not, by kind and name. Imports them; blocking."""
    brokers = _load("broker", BROKER_GROUP, BrokerPlugin, _check_broker, folders=folders)
    commands = _load("command", COMMAND_GROUP, CommandPlugin, _check_command, folders=folders)
    history = _load("history", HISTORY_GROUP, HistoryPlugin, _check_history, folders=folders)
    lakes = _load("lake", LAKE_GROUP, LakePlugin, _check_lake, folders=folders)
    return [loaded.row for loaded in (*brokers, *commands, *history, *lakes)]


def plugin_code(folders: Folders = ()) -> list[Path]:
    """Return where the code of broker and history plugins lies, also of those that cannot be imported. Blocking."""
    packages = {
        point.value.partition(":")[0].partition(".")[0]
        for group in (BROKER_GROUP, HISTORY_GROUP)
        for point in entry_points(group=group)
    }
    found = list(folders)
    for name in sorted(packages - {OWN_DISTRIBUTION}):
        spec = find_spec(name)  # of a top-level name: nothing is imported
        if spec is not None and spec.submodule_search_locations is not None:
            found += map(Path, spec.submodule_search_locations)
        elif spec is not None and spec.origin is not None:
            found.append(Path(spec.origin))
    return found


def installed_names(group: str, folders: Folders = ()) -> set[str]:
    """Return the names of the plugins of a group, also of those that cannot be used; nothing is imported."""
    return {point.name for point in _points(group, folders)}


def _usable(loaded: Iterable[_Loaded]) -> tuple[dict[str, Any], list[PluginProblem]]:
    plugins: dict[str, Any] = {}
    problems: list[PluginProblem] = []
    for one in loaded:
        if one.row.problem is not None:
            problems.append(PluginProblem(one.row.name, one.row.distribution, one.row.problem))
        else:
            plugins[one.row.name] = one.descriptor
    return plugins, problems


def _points(group: str, folders: Folders) -> list[EntryPoint | FolderPoint]:
    return [*entry_points(group=group), *(point for point in folder_points(folders) if point.group == group)]


def _load(
    kind: str,
    group: str,
    descriptor: type[P],
    check: Callable[[P], None],
    name: str | None = None,
    folders: Folders = (),
) -> list[_Loaded]:
    """Load the plugins of a group, or those of one name.

    Of two with the same name ours has it, then what is installed, then the first.
    """

    def rank(point: EntryPoint | FolderPoint) -> tuple[str, bool, bool, str]:
        distribution = _distribution(point)[0]
        return point.name, distribution != OWN_DISTRIBUTION, isinstance(point, FolderPoint), distribution

    loaded: list[_Loaded] = []
    owners: dict[str, str] = {}
    points = [point for point in _points(group, folders) if name in (None, point.name)]
    for point in sorted(points, key=rank):
        distribution, version = _distribution(point)
        found: P | None = None
        problem: str | None = None
        try:
            found = _descriptor(point, descriptor)
            check(found)
            if other := owners.get(point.name):
                mend = "rename this one" if isinstance(point, FolderPoint) else "uninstall one of them"
                raise PluginError(f"{other} has a {kind} plugin of this name too; {mend}")
            owners[point.name] = distribution
        except PluginError as error:
            problem = str(error)
        summary = found.summary if found is not None and isinstance(found.summary, str) else ""
        row = InstalledPlugin(point.name, kind, distribution, version, summary, problem)
        loaded.append(_Loaded(row, found))
    return loaded


def _descriptor(point: EntryPoint | FolderPoint, expected: type[P]) -> P:
    """Import what an entry point names. Raises PluginError, whatever the import raised."""
    try:
        found = point.load()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything; others must still load
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PluginError(f"cannot be imported from {point.value}: {text}") from error
    # The version first: a descriptor of another version may have another shape.
    version = getattr(found, "api_version", None)
    if isinstance(version, int) and version != API_VERSION:
        raise PluginError(f"found API version {version}, expected {API_VERSION}: install a version that fits")
    if not isinstance(found, expected):
        raise PluginError(f"found {type(found).__name__} at {point.value}, expected {expected.__name__}")
    if found.name != point.name:
        raise PluginError(f'found the name "{found.name}" in its descriptor, expected "{point.name}"')
    return found


def check_descriptor(plugin: Descriptor) -> None:
    """Raise PluginError, naming what was found and what was expected, for a descriptor that cannot be used."""
    if plugin.api_version != API_VERSION:
        raise PluginError(f"found API version {plugin.api_version}, expected {API_VERSION}")
    if isinstance(plugin, BrokerPlugin):
        _check_broker(plugin)
    elif isinstance(plugin, HistoryPlugin):
        _check_history(plugin)
    elif isinstance(plugin, LakePlugin):
        _check_lake(plugin)
    else:
        _check_command(plugin)


def _check_history(plugin: HistoryPlugin) -> None:
    _check_config(plugin)
    if plugin.candles_from != "tick":
        raise PluginError(f"found candles_from {plugin.candles_from}, expected tick: sources give ticks")


def _check_lake(plugin: LakePlugin) -> None:
    if not callable(plugin.factory):
        raise PluginError(f"found {plugin.factory!r} as factory, expected something to call")


def _check_config(plugin: BrokerPlugin | HistoryPlugin) -> None:
    if not (isinstance(plugin.config, type) and attrs.has(plugin.config)):
        raise PluginError(f"found {plugin.config!r} as config, expected an attrs class")
    try:
        attrs.resolve_types(plugin.config)
    except NameError as error:
        problem = f"the types of its config cannot be read: {error}; import it outside of TYPE_CHECKING"
        raise PluginError(problem) from error
    if not callable(plugin.factory):
        raise PluginError(f"found {plugin.factory!r} as factory, expected something to call")


def _check_broker(plugin: BrokerPlugin) -> None:
    _check_config(plugin)
    if not plugin.types or any(kind not in BY_NAME for kind in plugin.types):
        raise PluginError(
            f"found the types {_listed(plugin.types)}, expected some of {_listed(tuple(BY_NAME))}"
        )
    if plugin.candles_from not in plugin.types:
        raise PluginError(
            f"found candles_from {plugin.candles_from}, expected one of {_listed(plugin.types)}"
        )


def _check_command(plugin: CommandPlugin) -> None:
    if not isinstance(plugin.command, click.Command):
        raise PluginError(f"found {type(plugin.command).__name__} as command, expected click.Command")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names)) or "none"


def _distribution(point: EntryPoint | FolderPoint) -> tuple[str, str]:
    if isinstance(point, FolderPoint):
        return str(point.path), ""
    return ("unknown", "") if point.dist is None else (point.dist.name, point.dist.version)
