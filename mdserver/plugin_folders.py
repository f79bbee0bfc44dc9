"""Plugins as plain modules in a folder, for a first try: ``plugin_folders`` in the config, no packaging."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import attrs

from .errors import PluginError
from .plugin import (
    BROKER_GROUP,
    COMMAND_GROUP,
    HISTORY_GROUP,
    LAKE_GROUP,
    BrokerPlugin,
    CommandPlugin,
    HistoryPlugin,
    LakePlugin,
)

__all__ = ["FolderPoint", "folder_points"]

ATTRIBUTE = "plugin"

_GROUPS: dict[type, str] = {
    BrokerPlugin: BROKER_GROUP,
    HistoryPlugin: HISTORY_GROUP,
    CommandPlugin: COMMAND_GROUP,
    LakePlugin: LAKE_GROUP,
}


@attrs.frozen
class FolderPoint:
    """A plugin in a folder, with the interface of an entry point. ``problem`` is why it cannot be used."""

    name: str
    group: str
    path: Path
    found: object = None
    problem: str | None = None

    @property
    def value(self) -> str:
        """The place of the descriptor."""
        return str(self.path)

    def load(self) -> object:
        """Return the descriptor. Raises PluginError."""
        if self.problem is not None:
            raise PluginError(self.problem)
        return self.found


def folder_points(folders: Iterable[Path]) -> list[FolderPoint]:
    """Return the plugins of the folders, usable or not: modules and packages whose name begins with a letter.

    Imports each of them, once per process, which runs its code. Blocking.
    """
    return [_point(path) for folder in folders for path in _candidates(folder)]


def _candidates(folder: Path) -> list[Path]:
    """Return the modules and packages of a folder, and distributions, which are then reported as unusable."""
    if not folder.is_dir():
        return []  # the check of the config reports it
    return sorted(
        path
        for path in folder.iterdir()
        if path.name[0].isalpha()
        and (path.suffix == ".py" or (path / "__init__.py").is_file() or (path / "pyproject.toml").is_file())
    )


@cache
def _point(path: Path) -> FolderPoint:
    name = path.stem.removeprefix("mdserver_")
    try:
        if (path / "pyproject.toml").is_file():
            raise PluginError(
                f"found a project, expected a module or package: install it with pip install -e {path}"
            )
        found = getattr(_import(path), ATTRIBUTE, None)
    except PluginError as error:
        return FolderPoint(name, _guess_group(path), path, problem=str(error))
    group = _GROUPS.get(type(found))
    if group is None:
        expected = " or ".join(cls.__name__ for cls in _GROUPS)
        problem = f"found {type(found).__name__} as its {ATTRIBUTE}, expected {expected}"
        return FolderPoint(name, _guess_group(path), path, problem=problem)
    return FolderPoint(str(getattr(found, "name", name)), group, path, found)


def _import(path: Path) -> ModuleType:
    """Import a module or a package under its own name. Raises PluginError, whatever the import raised."""
    name = path.stem
    if name in sys.stdlib_module_names or name in sys.modules or importlib.util.find_spec(name) is not None:
        raise PluginError(f'found another module "{name}", expected a unique name')
    file = path / "__init__.py" if path.is_dir() else path
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, so that modules in a package find their parent
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything; others must still load
        del sys.modules[name]
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PluginError(f"cannot be imported: {text}") from error
    return module


def _guess_group(path: Path) -> str:
    """Guess the group of a plugin that cannot be imported from its text."""
    files = [path] if path.is_file() else sorted(path.glob("**/*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    return next((group for cls, group in _GROUPS.items() if f"{cls.__name__}(" in text), BROKER_GROUP)
