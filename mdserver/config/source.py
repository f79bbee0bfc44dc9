"""Read a YAML file as a tree of values that know their line, with ``${VAR}`` expanded.

Scalars follow the YAML 1.2 core schema: ``no``, ``on`` and ``1:30`` are text, not a boolean or a number of minutes.
PyYAML only parses; it constructs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import attrs
import yaml
from dotenv.parser import parse_stream

from ..errors import ConfigError
from ..os_errors import explain

__all__ = ["Located", "Missing", "Problem", "parse_yaml", "read_env_file"]

_MAX_NODES = 100_000
"""The most values in one file, each use of an alias counted: more is a mistake or an attack."""

_MERGE = "tag:yaml.org,2002:merge"
_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "value", "merge")
)
_INT = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)(?=\{)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\})"
)


@attrs.frozen
class Missing:
    """Stands for a value whose environment variable is not set and has no default."""

    variable: str


Data: TypeAlias = "str | int | float | bool | Missing | list[Located] | dict[str, Located] | None"


@attrs.frozen
class Located:
    """A value with its place: ``path`` as in ``brokers[1].api_key``, ``line`` from 1.

    ``key_line`` is the line of its key, for errors about the key. ``variables`` names the environment variables that
    it came from; such a value is text that may be read as a number.
    """

    data: Data
    path: str
    line: int
    key_line: int
    variables: tuple[str, ...] = ()


@attrs.frozen
class Problem:
    """One error in the file. ``missing_variable`` marks the kind that a disabled broker may have."""

    line: int | None
    path: str
    message: str
    missing_variable: bool = False

    def render(self, file: str) -> str:
        """Return the line for the operator: ``config.yaml:12: server.port: …``."""
        place = file if self.line is None else f"{file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


MAX_BYTES = 1_000_000
"""The longest config; 20,000 symbols take a fifth of it."""


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a ``.env`` file, if there is one. Raises ConfigError with the lines that are wrong."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {_reason(error)}"]) from None
    if bad := [f"{path}:{b.original.line}: found a line that is not NAME=value" for b in bindings if b.error]:
        raise ConfigError(bad)
    return {b.key: b.value for b in bindings if b.key is not None and b.value is not None}


def _read_text(path: Path) -> str:
    """Return a config's text. Raises ConfigError if it is longer than any config, which would be parsed for minutes."""
    with path.open("rb") as file:  # perhaps a pipe, whose size is not known before
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError([f"{path}: is longer than {MAX_BYTES:,} bytes: is it a config of mdserver?"])
    return data.decode("utf-8-sig")


def parse_yaml(path: Path, environ: Mapping[str, str]) -> tuple[Located, list[Problem]]:
    """Return the file's tree and the problems of its form (duplicate keys, tags).

    Raises ConfigError if the file cannot be read or is not YAML. The text itself is never quoted: it may contain
    secrets.
    """
    try:
        text = _read_text(path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {_reason(error)}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, text).render(str(path))]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None
    if node is None:
        return Located({}, "", 1, 1), []
    tree = _Tree(environ)
    try:
        return tree.locate(node, "", node.start_mark.line + 1), tree.problems
    except (_TooLargeError, RecursionError):
        raise ConfigError([f"{path}: expands to more than {_MAX_NODES} values"]) from None


class _TooLargeError(Exception):
    """The aliases of the file expand to too many values."""


class _Tree:
    """Turns PyYAML's nodes into located values and collects problems."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._count = 0
        self.problems: list[Problem] = []

    def locate(self, node: yaml.Node, path: str, key_line: int) -> Located:
        self._count += 1
        if self._count > _MAX_NODES:
            raise _TooLargeError
        line = node.start_mark.line + 1
        if node.tag not in _CORE_TAGS:
            message = "found a YAML tag, expected a plain value (text that begins with ! needs quotes)"
            self.problems.append(Problem(line, path, message))
        if isinstance(node, yaml.MappingNode):
            return Located(self._mapping(node, path), path, line, key_line)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.locate(item, f"{path}[{i}]", item.start_mark.line + 1)
                for i, item in enumerate(node.value)
            ]
            return Located(items, path, line, key_line)
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - YAML has no fourth kind
        data, variables = self._scalar(node, path)
        return Located(data, path, line, key_line, variables)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Located]:
        found: dict[str, Located] = {}
        merged: list[yaml.MappingNode] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                merged.extend(self._merged(value, path))
            elif not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(line, path, "found a key that is not text"))
            elif key.value in found:
                first = found[key.value].key_line
                message = f"found the key twice, the first is in line {first}"
                self.problems.append(Problem(line, _join(path, key.value), message))
            else:
                found[key.value] = self.locate(value, _join(path, key.value), line)
        for base in merged:
            for name, value in self._mapping(base, path).items():
                found.setdefault(name, value)
        return found

    def _merged(self, value: yaml.Node, path: str) -> Iterator[yaml.MappingNode]:
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            self._count += 1
            if self._count > _MAX_NODES:
                raise _TooLargeError
            if isinstance(node, yaml.MappingNode):
                yield node
            else:
                self.problems.append(Problem(node.start_mark.line + 1, path, "expected a mapping after <<"))

    def _scalar(self, node: yaml.ScalarNode, path: str) -> tuple[Data, tuple[str, ...]]:
        text: str = node.value
        if "${" in text:
            if _is_malformed(text):
                expected = "expected ${NAME} or ${NAME:-default}, neither within another; $${ writes ${"
                line = node.start_mark.line + 1
                self.problems.append(
                    Problem(line, path, f"found a malformed reference to a variable, {expected}")
                )
            return _expand(text, self._environ)
        if node.style is not None:  # quoted or a block scalar: always text
            return text, ()
        return _plain(text), ()


def _plain(text: str) -> Data:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _expand(text: str, environ: Mapping[str, str]) -> tuple[str | Missing, tuple[str, ...]]:
    variables: list[str] = []
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name, default = match["name"], match["default"]
        variables.append(name)
        found = environ.get(name)
        if default is not None and not found:  # ":-" also replaces an empty value, as in a shell
            return str(default[2:])
        if found is None:
            missing.append(name)
            return ""
        return found

    expanded = _VARIABLE.sub(value, text)
    if missing:
        return Missing(missing[0]), tuple(variables)
    return expanded, tuple(variables)


def _is_malformed(text: str) -> bool:
    """Return whether a text contains a ``${`` that begins no reference, or one within a default."""
    nested = any("${" in (match["default"] or "") for match in _VARIABLE.finditer(text))
    return nested or "${" in _VARIABLE.sub(" ", text)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return explain(error)


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem(line, "", "found a character that YAML does not allow")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem(None, "", "is not YAML")
    line = error.problem_mark.line + 1
    if isinstance(error, yaml.composer.ComposerError):
        # Its message would quote the alias, which may be a password that begins with *.
        if error.problem is not None and "alias" in error.problem:
            return Problem(
                line, "", "found an alias that is not defined (text that begins with * needs quotes)"
            )
        if error.context is not None and "anchor" in error.context:
            return Problem(line, "", "found an anchor twice")
        return Problem(line, "", "found a second document, expected one")
    return Problem(line, "", f"is not YAML: {error.problem}")
