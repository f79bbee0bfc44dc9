"""Read a config: file, environment and defaults, checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import attrs
import platformdirs

from ..errors import ConfigError
from ..kinds import BY_NAME
from ..symbols import canonical
from .sections import BrokerEntry, BusConfig, Config, DatabaseConfig, HistoryEntry, ServerConfig, TlsConfig
from .source import Located, Problem, parse_yaml, read_env_file
from .structure import Invalid, build, config_keys, gather_fields, shown, structure

__all__ = ["DEFAULT_SYMBOLS", "default_data_dir", "load_config", "read_plugin_folders"]

DEFAULT_SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "BTCUSDT")
"""What the mock broker streams when there is no config file."""

DEFAULT_SOURCE = "dukascopy"
"""The history source if the config names none and this plugin is installed."""

_LATER = ("brokers", "data_dir", "history", "plugin_folders")
"""Keys of the file that need more than a check of their type."""

_NOUNS = {"brokers": "brokers", "history": "sources"}
_KINDS = {"brokers": "broker", "history": "history"}

E = TypeVar("E", BrokerEntry, HistoryEntry)


def load_config(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    brokers: Mapping[str, type | None],
    history: Mapping[str, type | None] = MappingProxyType({}),
    broker_types: Mapping[str, Collection[str]] = MappingProxyType({}),
    unusable: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Return the config of a file, or the default config if ``path`` is None; only the latter uses ``DATABASE_URL``.

    ``brokers`` maps the name of each installed broker plugin to its config class, or to None if the plugin cannot be
    used: then its keys are not checked, and the broker's settings are None. ``broker_types`` maps plugins to the record
    types that they support, where known. ``unusable`` maps plugins that cannot be loaded to the reason: an enabled
    entry that needs one is a problem then. Variables of a ``.env`` beside the file are read too; those of ``environ``
    take precedence, and ``MDSERVER_DATA_DIR`` takes precedence over ``data_dir``.
    Raises ConfigError with all problems. Blocking.
    """
    if path is None:
        return _default(environ, brokers, history)
    variables = {**read_env_file(path.parent / ".env"), **environ}
    root, problems = parse_yaml(path, variables)
    arguments: dict[str, Any] = {}
    try:
        arguments, found = gather_fields(root, Config, skip=_LATER, also_known=_LATER)
        problems += found
        arguments["brokers"], found = _entries(root, "brokers", BrokerEntry, brokers)
        problems += found + _check_types(root, broker_types) + _check_usable(root, unusable)
        arguments["history"], found = _history(root, history, arguments["brokers"])
        problems += found
        arguments["plugin_folders"], found = _plugin_folders(root, path.parent)
        problems += found
        arguments["data_dir"] = _data_dir(root, path.parent, variables)
    except Invalid as error:
        problems += error.problems
    else:
        problems += [] if problems else _check_bus(root, arguments)
    if problems:
        problems.sort(key=lambda problem: problem.line or 0)
        raise ConfigError([problem.render(str(path)) for problem in problems])
    if server := arguments.get("server"):
        arguments["server"] = _tls_beside(server, path.parent)
    bus = arguments.get("bus")
    if bus is not None and bus.ca_file is not None:
        arguments["bus"] = attrs.evolve(bus, ca_file=path.parent.absolute() / bus.ca_file)
    return Config(**arguments)


def read_plugin_folders(path: Path, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the existing ``plugin_folders`` of a file: their plugins must be loaded before the rest can be checked.

    Errors in the file are ignored here; :func:`load_config` reports them. Blocking.
    """
    try:
        root, _ = parse_yaml(path, {**read_env_file(path.parent / ".env"), **environ})
        return _plugin_folders(root, path.parent)[0]
    except (ConfigError, Invalid):
        return ()


def _plugin_folders(root: Located, beside: Path) -> tuple[tuple[Path, ...], list[Problem]]:
    """Return the folders as absolute paths, and the problems of others; relative paths are relative to the file."""
    given = root.data.get("plugin_folders") if isinstance(root.data, dict) else None
    if given is None:
        return (), []
    folders: list[Path] = []
    problems = []
    for item in given.data if isinstance(given.data, list) else [given]:
        folder = (beside.absolute() / structure(item, Path)).absolute()
        if folder.is_dir():
            folders.append(folder)
        else:
            problems.append(
                Problem(item.line, item.path, f"found {shown(item)}, expected a folder; there is none")
            )
    return tuple(folders), problems


def _tls_beside(server: ServerConfig, folder: Path) -> ServerConfig:
    """Return the settings with the files of TLS relative to the config file."""
    if server.tls is None:
        return server
    tls = TlsConfig(folder.absolute() / server.tls.certificate, folder.absolute() / server.tls.key)
    return attrs.evolve(server, tls=tls)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return ``MDSERVER_DATA_DIR``, else the user's data folder.

    For root it is ``/var/lib/mdserver``: the database runs as another user, who cannot enter root's home.
    """
    if chosen := environ.get("MDSERVER_DATA_DIR"):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise ConfigError([f"MDSERVER_DATA_DIR: {error}"]) from None
    if os.geteuid() == 0:
        return Path("/var/lib/mdserver")
    return platformdirs.user_data_path("mdserver")


def _default(
    environ: Mapping[str, str], brokers: Mapping[str, type | None], history: Mapping[str, type | None]
) -> Config:
    entries: tuple[BrokerEntry, ...] = ()
    if (mock_class := brokers.get("mock")) is not None:
        mock = BrokerEntry(
            "mock", "mock", symbols=DEFAULT_SYMBOLS, types=("tick", "trade"), settings=mock_class()
        )
        entries = (mock,)
    return Config(
        data_dir=default_data_dir(environ),
        database=_database_of(environ),
        brokers=entries,
        history=_default_history(history),
    )


def _database_of(environ: Mapping[str, str]) -> DatabaseConfig:
    """Return the database that ``DATABASE_URL`` names, else the embedded one."""
    if not (url := environ.get("DATABASE_URL")):
        return DatabaseConfig()
    try:
        return DatabaseConfig(url=url)
    except ValueError:  # its text is not quoted: it may contain a password
        message = 'DATABASE_URL: found a value (hidden), expected "embedded" or a postgresql:// URL'
        raise ConfigError([message]) from None


def _default_history(plugins: Mapping[str, type | None]) -> tuple[HistoryEntry, ...]:
    cls = plugins.get(DEFAULT_SOURCE)
    return () if cls is None else (HistoryEntry(DEFAULT_SOURCE, DEFAULT_SOURCE, settings=cls()),)


def _data_dir(root: Located, beside: Path, environ: Mapping[str, str]) -> Path:
    """Return the data folder; a relative path is relative to the file."""
    given = root.data.get("data_dir") if isinstance(root.data, dict) else None
    if given is None:
        return default_data_dir(environ)
    try:
        folder = structure(given, Path).expanduser()
    except RuntimeError:
        message = f"found {shown(given)}, expected a path: there is no such user, or no home folder"
        raise Invalid([Problem(given.line, given.path, message)]) from None
    if environ.get("MDSERVER_DATA_DIR"):
        return default_data_dir(environ)
    return (beside.absolute() / folder).absolute()


def _check_usable(root: Located, unusable: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each enabled entry whose plugin is installed but cannot be loaded."""
    problems = []
    for key in ("brokers", "history"):
        listed = root.data.get(key) if isinstance(root.data, dict) else None
        for item in listed.data if listed is not None and isinstance(listed.data, list) else []:
            if not isinstance(item.data, dict) or not _is_enabled(item):
                continue
            named = item.data.get("plugin", item.data.get("name"))
            why = unusable.get(named.data) if named is not None and isinstance(named.data, str) else None
            if why is not None:
                problems.append(Problem(item.line, item.path, why))
    return problems


def _check_types(root: Located, known: Mapping[str, Collection[str]]) -> list[Problem]:
    """Return a problem for each record type that the plugin of its broker does not support."""
    listed = root.data.get("brokers") if isinstance(root.data, dict) else None
    problems = []
    for item in listed.data if listed is not None and isinstance(listed.data, list) else []:
        if not isinstance(item.data, dict):
            continue
        named, types = item.data.get("plugin", item.data.get("name")), item.data.get("types")
        has = known.get(named.data) if named is not None and isinstance(named.data, str) else None
        if has is None or types is None or not isinstance(types.data, list):
            continue
        for one in types.data:
            if one.data in BY_NAME and one.data not in has:
                message = f"found {shown(one)}, expected a type that this plugin supports: {', '.join(has)}"
                problems.append(Problem(one.line, one.path, message))
    return problems


def _check_bus(root: Located, arguments: Mapping[str, Any]) -> list[Problem]:
    """Return a problem where a role has no bus, or the processes of a bus have no database in common."""
    bus, database = arguments.get("bus", BusConfig()), arguments.get("database", DatabaseConfig())
    line = root.data["bus"].line if isinstance(root.data, dict) and "bus" in root.data else None
    if bus.url is None and bus.role != "all":
        return [
            Problem(line, "bus", f"found the role {bus.role} without a url, expected the address of the bus")
        ]
    if bus.ca_file is not None and not (bus.url or "").startswith("rediss:"):
        return [
            Problem(line, "bus", f"found ca_file {bus.ca_file} without TLS, expected a url with rediss://")
        ]
    if bus.url is None or (database.url != "embedded" and database.store):
        return []
    found = "the embedded database" if database.store else "database.store false"
    message = f"found {found}, expected database.url of one that all processes of the bus reach"
    return [Problem(line, "bus", message)]


def _history(
    root: Located, plugins: Mapping[str, type | None], brokers: Sequence[BrokerEntry]
) -> tuple[tuple[HistoryEntry, ...], list[Problem]]:
    """Return the history sources. One with the name of a broker is a problem: imported and live records would mix."""
    if not isinstance(root.data, dict) or root.data.get("history") is None:
        return _default_history(plugins), []
    entries, problems = _entries(root, "history", HistoryEntry, plugins)
    taken = {broker.name for broker in brokers}
    listed = root.data["history"]
    for entry in entries:
        if entry.name in taken:
            message = f'found the name "{entry.name}", which a broker has, expected a name of its own'
            problems.append(Problem(listed.line, f"{listed.path}", message))
    return entries, problems


def _entries(
    root: Located, key: str, into: type[E], plugins: Mapping[str, type | None]
) -> tuple[tuple[E, ...], list[Problem]]:
    listed = root.data.get(key) if isinstance(root.data, dict) else None
    if listed is None or listed.data is None:
        return (), []
    if not isinstance(listed.data, list):
        return (), [Problem(listed.line, listed.path, f"expected a list of {_NOUNS[key]}, each with a name")]
    entries: list[E] = []
    problems: list[Problem] = []
    named: dict[str, Located] = {}
    for item in listed.data:
        try:
            entry = _entry(item, key, into, plugins)
        except Invalid as error:
            problems += error.problems
        else:
            entries.append(entry)
        name = item.data.get("name") if isinstance(item.data, dict) else None
        if name is None or not isinstance(name.data, str):
            continue
        if (first := named.setdefault(name.data, name)) is not name:
            message = (
                f'found "{name.data}" again (the first is in line {first.line}), expected a name of its own'
            )
            problems.append(Problem(name.line, name.path, message))
    return tuple(entries), problems


def _entry(item: Located, key: str, into: type[E], plugins: Mapping[str, type | None]) -> E:
    """Structure one entry: the common keys into ``into``, all others into the plugin's class."""
    if not isinstance(item.data, dict):
        raise Invalid([Problem(item.line, item.path, "expected a mapping with at least a name")])
    enabled = _is_enabled(item)
    named = item.data.get("plugin", item.data.get("name"))
    plugin = named.data if named is not None and isinstance(named.data, str) else None
    cls = plugins.get(plugin) if plugin is not None else None
    # Without the plugin its keys are unknown; the one problem about the plugin is enough.
    keys: tuple[str, ...] = tuple(item.data) if cls is None else config_keys(cls)
    arguments, problems = gather_fields(item, into, skip=("settings", "plugin"), also_known=("plugin", *keys))
    if not enabled:  # a disabled broker needs no environment variables
        problems = [problem for problem in problems if not problem.missing_variable]
    problems += _check_symbols(item)
    if named is not None and plugin is None and "plugin" in item.data:
        problems.append(Problem(named.line, named.path, f"found {shown(named)}, expected text"))
    elif named is not None and plugin is not None and plugin not in plugins and enabled:
        hint = f"installed are {', '.join(sorted(plugins))}" if plugins else "none is installed"
        problems.append(
            Problem(named.line, named.path, f'there is no {_KINDS[key]} plugin "{plugin}", {hint}')
        )
    settings: object = None
    if cls is not None:
        settings, found = _settings(item, cls, keys, enabled=enabled)
        problems += found
    if problems:
        raise Invalid(problems)
    return build(item, into, {**arguments, "plugin": plugin, "settings": settings})


def _settings(
    item: Located, cls: type, keys: tuple[str, ...], *, enabled: bool
) -> tuple[object, list[Problem]]:
    """Structure a plugin's own keys. A disabled broker needs no environment variables."""
    assert isinstance(item.data, dict)  # noqa: S101 - the caller checked
    own = attrs.evolve(item, data={key: item.data[key] for key in keys if key in item.data})
    arguments, problems = gather_fields(own, cls)
    if not enabled and any(problem.missing_variable for problem in problems):
        return None, [problem for problem in problems if not problem.missing_variable]
    if problems:
        return None, problems
    try:
        return build(own, cls, arguments), []
    except Invalid as error:
        return None, error.problems


def _is_enabled(item: Located) -> bool:
    assert isinstance(item.data, dict)  # noqa: S101 - the caller checked
    try:
        return "enabled" not in item.data or structure(item.data["enabled"], bool)
    except Invalid:
        return True  # gather_fields reports that it is not a boolean


def _check_symbols(item: Located) -> list[Problem]:
    assert isinstance(item.data, dict)  # noqa: S101 - the caller checked
    symbols = item.data.get("symbols")
    problems = []
    for symbol in symbols.data if symbols is not None and isinstance(symbols.data, list) else []:
        try:
            if isinstance(symbol.data, str):
                canonical(symbol.data)
        except ValueError:
            message = f"found {shown(symbol)}, expected a symbol such as EURUSD or EUR/USD"
            problems.append(Problem(symbol.line, symbol.path, message))
    return problems
