"""Generates a plugin's project from the templates, each of which is a whole working project named ``acme``.

The template ``polled`` alone is laid over another: it has the files of ``broker`` that differ for a polled venue.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ..errors import PluginError

__all__ = ["KINDS", "PluginKind", "write_project"]

PluginKind: TypeAlias = Literal["broker", "history", "command"]

KINDS: tuple[PluginKind, ...] = get_args(PluginKind)

_SUFFIX = ".template"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_MAX_NAME = 30
_RENAMED = {"gitignore": ".gitignore"}  # some archives leave out dot files


def write_project(kind: PluginKind, name: str, folder: Path, *, polled: bool = False) -> list[Path]:
    """Write the project of a plugin to ``folder``, which must not exist; return its files' relative paths, sorted.

    ``polled``: the broker polls its venue over HTTP, in place of a WebSocket. Raises PluginError if the plugin is no
    broker then, the name is not allowed for a plugin or the folder exists. Blocking.
    """
    if polled and kind != "broker":
        raise PluginError(f"found --polled with the kind {kind}, expected it with a broker only")
    if _NAME.fullmatch(name) is None or len(name) > _MAX_NAME:
        raise PluginError(
            f"found the name {name!r}, expected at most {_MAX_NAME} small letters and digits, in words joined by - or _"
        )
    if folder.exists():
        raise PluginError(f"{folder} exists already, expected a folder that does not exist")
    words = re.split("[-_]", name)
    names = {
        "mdserver_acme": "mdserver_" + "_".join(words),
        "mdserver-acme": "mdserver-" + "-".join(words),
        "ACME": "_".join(words).upper(),
        "Acme": "".join(word.capitalize() for word in words),
        "acme": name,
    }
    placeholder = re.compile("|".join(names))

    def render(text: str) -> str:
        return placeholder.sub(lambda found: names[found[0]], text)

    written = []
    templates = files(__package__) / "templates"
    found = dict(_walk(templates / kind))
    if polled:
        found |= _walk(templates / "polled")
    for parts, template in found.items():
        path = Path(*map(render, parts))
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(template.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(path)
    return sorted(written)


def _walk(folder: Traversable, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Traversable]]:
    found: list[tuple[tuple[str, ...], Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, (*above, entry.name))
        elif entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            found.append(((*above, _RENAMED.get(name, name)), entry))
    return found
