"""The JSON Schema (draft 2020-12) of ``config.yaml``, for editors, made from the same classes that read the file."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from .constraints import is_secret, limits
from .sections import BrokerEntry, Config, HistoryEntry

__all__ = ["json_schema"]

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
"""A scalar of any type may come from the environment."""

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Path: {"type": "string", "minLength": 1},
    object: {},
    Any: {},
}


def json_schema(
    brokers: Mapping[str, type], history: Mapping[str, type] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the schema of a config whose entries may use these plugins (name -> config class)."""
    schema = _class_schema(Config)
    schema["properties"]["brokers"]["items"] = _entry_schema(BrokerEntry, brokers)
    schema["properties"]["history"]["items"] = _entry_schema(HistoryEntry, history)
    schema["required"] = []  # data_dir has its default from the environment
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mdserver config.yaml",
        **{key: value for key, value in schema.items() if key != "description"},
    }


def _entry_schema(entry: type, plugins: Mapping[str, type]) -> dict[str, Any]:
    """Return the schema of an entry: the common keys and those of its plugin, by default the one of its name."""
    if not plugins:
        return {"not": {}}  # no plugin, no entry
    common = _class_schema(entry)
    properties = common["properties"]
    del properties["settings"]
    names = sorted(plugins)
    properties["plugin"] = {**properties["plugin"], "enum": names}
    return {
        "type": "object",
        "description": common["description"],
        "properties": properties,
        "required": ["name"],
        "anyOf": [{"required": ["plugin"]}, {"properties": {"name": {"enum": names}}}],
        "allOf": [{"if": _is_plugin(name), "then": _plugin_schema(plugins[name])} for name in names],
        "unevaluatedProperties": False,
    }


def _is_plugin(name: str) -> dict[str, Any]:
    says = {"properties": {"plugin": {"const": name}}, "required": ["plugin"]}
    is_called = {"properties": {"name": {"const": name}}, "not": {"required": ["plugin"]}}
    return {"anyOf": [says, is_called]}


def _plugin_schema(cls: type) -> dict[str, Any]:
    schema = _class_schema(cls)
    del schema["additionalProperties"], schema["type"]  # the entry's unevaluatedProperties does it
    # A disabled broker may lack its environment variables, but not its keys.
    return schema


def _class_schema(cls: type) -> dict[str, Any]:
    fields = [f for f in attrs.fields(attrs.resolve_types(cls)) if f.init]
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split()),
        "properties": {f.alias or f.name: _field_schema(f) for f in fields},
        "additionalProperties": False,
    }
    if required := [f.alias or f.name for f in fields if f.default is attrs.NOTHING]:
        schema["required"] = required
    return schema


def _field_schema(field: attrs.Attribute[Any]) -> dict[str, Any]:
    schema = _type_schema(field.type, limits(field.validator))
    if text := field.metadata.get("help"):
        schema["description"] = text
    default = field.default
    if isinstance(default, str | int | float) and not is_secret(field):
        schema["default"] = default
    return schema


def _type_schema(to: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(to), get_args(to)
    if isinstance(to, type) and attrs.has(to):
        return _class_schema(to)
    if origin in (Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        schemas = [_type_schema(option, found) for option in options]
        if type(None) in arguments:
            schemas.append({"type": "null"})
        return {"anyOf": schemas}
    if origin in (tuple, list, Sequence, set, frozenset):
        return {"type": "array", "items": _type_schema((arguments or (object,))[0], {})}
    if origin in (dict, Mapping) or to in (dict, Mapping):
        return {"type": "object", "additionalProperties": _type_schema((*arguments, str, object)[1], {})}
    if origin is Literal:
        return {"anyOf": [{"enum": list(arguments)}, dict(_VARIABLE)]}
    schema = {**_SCALARS.get(to, {}), **found}
    if not schema or schema == {"type": "string"}:
        return schema
    return {"anyOf": [schema, dict(_VARIABLE)]}
