"""Structure located values into frozen attrs classes: strictly, and with all problems at once.

cattrs chooses the hook for each type. The hooks are ours, because its own turn ``"abc"`` into ``["a", "b", "c"]`` and
``True`` into 1. Each hook takes a :class:`~.source.Located` and raises :class:`Invalid`.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import BaseValidationError, StructureHandlerNotFoundError

from ..redact import is_secret_name, redact
from .constraints import is_secret, limits, range_words
from .source import Located, Missing, Problem

__all__ = ["Invalid", "build", "config_keys", "did_you_mean", "gather_fields", "shown", "structure"]

T = TypeVar("T")

_SHOWN_CHARACTERS = 80


class Invalid(Exception):
    """A value that cannot be used; has one or more problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(problem.message for problem in self.problems))


def structure(value: Located, to: type[T]) -> T:
    """Return ``value`` as ``to``. Raises Invalid with all problems."""
    try:
        result: T = _converter.structure(value, to)
    except (StructureHandlerNotFoundError, BaseValidationError, TypeError, ValueError, KeyError):
        # a type without a hook of ours: cattrs has none either, or one of its own, which knows no lines
        message = f"cannot be set: its type {to!r} is not one that a config can hold"
        raise Invalid([Problem(value.line, value.path, message)]) from None
    return result


def shown(value: Located, *, secret: bool = False) -> str:
    """Return the value as an error shows it: never a secret, never a whole structure."""
    if secret or any(map(is_secret_name, value.variables)):
        return "a value (hidden)"
    match value.data:
        case None:
            return "nothing"
        case bool():
            return "true" if value.data else "false"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case str():
            text = redact(value.data)
            text = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
            origin = f" from ${{{value.variables[0]}}}" if value.variables else ""
            return '"' + text.replace("\n", "\\n") + '"' + origin
        case _:
            return str(value.data)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean "port"?``, or the known names if none is similar."""
    known = sorted(known)
    if near := difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6):
        return f'did you mean "{near[0]}"?'
    return "expected one of " + ", ".join(known)


def gather_fields(
    value: Located, cls: type, *, skip: Sequence[str] = (), also_known: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Structure each field of ``cls`` from a mapping; return arguments for its constructor, and the problems.

    Fields in ``skip`` are left out, and count as unknown keys unless they are in ``also_known`` too.
    Raises Invalid if the value is not a mapping.
    """
    if not isinstance(value.data, dict):
        raise _mismatch(value, "a mapping")
    fields = _fields(cls)
    known = [*(key for key in fields if key not in skip), *also_known]
    problems = [
        Problem(item.key_line, item.path, f"unknown key, {did_you_mean(key, known)}")
        for key, item in value.data.items()
        if key not in known
    ]
    arguments: dict[str, Any] = {}
    for key, field in fields.items():
        if key in skip:
            continue
        try:
            if key in value.data and _is_empty_section(value.data[key], field):
                continue
            if key in value.data:
                arguments[key] = _field(value.data[key], field)
            elif field.default is attrs.NOTHING:
                message = f"missing, expected {_expected(field)}"
                raise Invalid([Problem(value.line, f"{value.path}.{key}".lstrip("."), message)])
        except Invalid as error:
            problems += error.problems
    return arguments, problems


def config_keys(cls: type) -> tuple[str, ...]:
    """Return the keys that a settings class takes from the file."""
    return tuple(_fields(cls))


def _fields(cls: type) -> dict[str, attrs.Attribute[Any]]:
    return {f.alias or f.name: f for f in attrs.fields(attrs.resolve_types(cls)) if f.init}


def _is_empty_section(value: Located, field: attrs.Attribute[Any]) -> bool:
    """Return whether a section is empty because all its keys are commented out."""
    section = isinstance(field.type, type) and attrs.has(field.type)
    return section and value.data is None and field.default is not attrs.NOTHING


def build(value: Located, cls: type[T], arguments: dict[str, Any]) -> T:
    """Build an object of the class. Raises Invalid if its own checks refuse (``__attrs_post_init__``, validators)."""
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        # A check across fields may quote any of them, so nothing is quoted if the class has a secret.
        hidden = any(map(is_secret, attrs.fields(cls)))  # type: ignore[arg-type]
        message = "refused: the values do not fit together" if hidden else f"refused: {redact(str(error))}"
        raise Invalid([Problem(value.line, value.path, message)]) from None


def _field(value: Located, field: attrs.Attribute[Any]) -> Any:
    secret = is_secret(field)
    try:
        result = structure(value, field.type or object)
    except Invalid as error:
        if not secret:
            raise
        hidden = f"found {shown(value, secret=True)}, expected {_expected(field)}"
        raise Invalid(
            p if p.missing_variable else attrs.evolve(p, message=hidden) for p in error.problems
        ) from None
    if field.validator is not None and field.converter is None:  # else build() runs it on the converted value
        try:
            field.validator(None, field, result)
        except (ValueError, TypeError) as error:
            raise _refused(value, field, error, secret=secret) from None
        except AttributeError:
            pass  # it needs the object, which does not exist yet: build() runs it again
    return result


def _refused(value: Located, field: attrs.Attribute[Any], error: Exception, *, secret: bool) -> Invalid:
    words = range_words(_expected(field), limits(field.validator))
    if not words and not secret:
        # A plugin's own check: use what its message has after "expected", else the whole message.
        text = str(error.args[0]) if error.args else "another value"
        words = redact(text.rpartition("expected ")[2])
    return _mismatch(value, words or _expected(field), secret=secret)


def _expected(field: attrs.Attribute[Any]) -> str:
    return str(field.metadata.get("expected") or _describe(field.type))


def _describe(to: Any) -> str:
    """Return in words what a type expects."""
    if isinstance(to, type) and attrs.has(to):
        return "a mapping"
    origin, arguments = get_origin(to), get_args(to)
    if origin is Annotated:
        return _describe(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(to, type) and issubclass(to, Enum):
        return "one of " + ", ".join(str(member.value) for member in to)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in arguments if a is not type(None))
    if origin in (tuple, list, Sequence, frozenset, set):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    return _WORDS.get(to, "a value")


_WORDS: dict[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
}


def _mismatch(value: Located, expected: str, *, secret: bool = False) -> Invalid:
    if isinstance(value.data, Missing):
        message = f"environment variable {value.data.variable} is not set, expected {expected}"
        return Invalid([Problem(value.line, value.path, message, missing_variable=True)])
    return Invalid(
        [Problem(value.line, value.path, f"found {shown(value, secret=secret)}, expected {expected}")]
    )


def _attrs_class(cls: type[T]) -> Callable[[Located, Any], T]:
    def hook(value: Located, _: Any) -> T:
        arguments, problems = gather_fields(value, cls)
        if problems:
            raise Invalid(problems)
        return build(value, cls, arguments)

    return hook


def _text(value: Located, _: Any) -> str:
    if isinstance(value.data, str):
        return value.data
    number = isinstance(value.data, int | float) and not isinstance(value.data, bool)
    raise _mismatch(value, "text (put it in quotes)" if number else "text")


def _bool(value: Located, _: Any) -> bool:
    if isinstance(value.data, bool):
        return value.data
    if value.variables and isinstance(value.data, str) and value.data.lower() in ("true", "false"):
        return value.data.lower() == "true"
    raise _mismatch(value, "true or false")


def _int(value: Located, _: Any) -> int:
    if isinstance(value.data, int) and not isinstance(value.data, bool):
        return value.data
    if value.variables and isinstance(value.data, str):
        with suppress(ValueError):  # reported as a mismatch below
            return int(value.data)
    raise _mismatch(value, "an integer")


def _float(value: Located, _: Any) -> float:
    found = math.nan
    number = isinstance(value.data, int | float) and not isinstance(value.data, bool)
    if number or (value.variables and isinstance(value.data, str)):
        with suppress(ValueError):  # reported as a mismatch below
            found = float(value.data)  # type: ignore[arg-type]
    if not math.isfinite(found):
        raise _mismatch(value, "a number")
    return found


def _path(value: Located, _: Any) -> Path:
    if not isinstance(value.data, str) or not value.data:
        raise _mismatch(value, "a path")
    return Path(value.data)


def _literal(value: Located, to: Any) -> Any:
    options = get_args(to)
    for option in options:
        same = type(option) is type(value.data) and option == value.data
        if same or (value.variables and str(option) == value.data):
            return option
    raise _mismatch(value, _describe(to))


def _enum(value: Located, to: Any) -> Any:
    for member in to:
        same = type(member.value) is type(value.data) and member.value == value.data
        if same or (value.variables and str(member.value) == value.data):
            return member
    raise _mismatch(value, _describe(to))


def _union(value: Located, to: Any) -> Any:
    options = get_args(to)
    if value.data is None and type(None) in options:
        return None
    present = [option for option in options if option is not type(None)]
    if len(present) == 1:
        return structure(value, present[0])
    for option in present:
        try:
            return structure(value, option)
        except Invalid:
            continue  # if none fits, that is reported below
    raise _mismatch(value, _describe(to))


def _items(value: Located, to: Any) -> list[Any]:
    if not isinstance(value.data, list):
        raise _mismatch(value, "a list")
    result: list[Any] = []
    problems: list[Problem] = []
    for item in value.data:
        try:
            result.append(structure(item, to))
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(problems)
    return result


def _mapping(value: Located, to: Any) -> dict[str, Any]:
    if not isinstance(value.data, dict):
        raise _mismatch(value, "a mapping")
    item_type = (get_args(to) or (str, object))[1]
    result: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, item in value.data.items():
        try:
            result[key] = structure(item, item_type)
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(problems)
    return result


def _anything(value: Located, _: Any) -> Any:
    match value.data:
        case Missing():
            raise _mismatch(value, "a value")
        case list():
            return [_anything(item, _) for item in value.data]
        case dict():
            return {key: _anything(item, _) for key, item in value.data.items()}
        case data:
            return data


def _origin_in(*origins: Any) -> Callable[[Any], bool]:
    return lambda to: to in origins or get_origin(to) in origins


def _item_type(to: Any) -> Any:
    return (get_args(to) or (object,))[0]


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    hook = converter.register_structure_hook_func
    converter.register_structure_hook_factory(lambda to: isinstance(to, type) and attrs.has(to), _attrs_class)
    # Registered by type, not by predicate: for these types cattrs tries its own table first.
    scalars: dict[Any, Callable[[Located, Any], Any]]
    scalars = {str: _text, bool: _bool, int: _int, float: _float, Path: _path}
    for to, scalar in scalars.items():
        converter.register_structure_hook(to, scalar)
    hook(lambda to: to is object or to is Any, _anything)
    hook(lambda to: isinstance(to, type) and issubclass(to, Enum), _enum)
    hook(_origin_in(Literal), _literal)
    hook(_origin_in(Union, types.UnionType), _union)
    hook(_origin_in(list, Sequence), lambda value, to: _items(value, _item_type(to)))
    hook(_origin_in(tuple), lambda value, to: tuple(_items(value, _item_type(to))))
    hook(_origin_in(set, frozenset), lambda value, to: frozenset(_items(value, _item_type(to))))
    hook(_origin_in(dict, Mapping), _mapping)
    return converter


_converter = _make_converter()
