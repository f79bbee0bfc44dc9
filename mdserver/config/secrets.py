"""The values of the secrets in a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import attrs

from ..redact import is_secret_name
from .constraints import is_secret

__all__ = ["secret_values"]

_PASSWORD_IN_URL = re.compile(r"\A[a-z][a-z0-9+.-]*://[^/?#]*?:(?P<password>[^/?#]*)@", re.IGNORECASE)


def secret_values(config: object) -> frozenset[str]:
    """Return every secret value in ``config`` (attrs objects at any depth): of secret fields, and passwords in URLs."""
    return frozenset(_values(config, secret=False))


def _values(found: object, *, secret: bool) -> Iterator[str]:
    if isinstance(found, str):
        if match := _PASSWORD_IN_URL.match(found):
            yield match["password"]
            yield unquote(match["password"])
        elif secret and "://" not in found:
            yield found
    elif attrs.has(cls := type(found)):
        for field in attrs.fields(cls):
            value = getattr(found, field.name)
            if value != field.default:  # the documentation shows the defaults: they are no secrets
                yield from _values(value, secret=secret or is_secret(field))
    elif isinstance(found, Mapping):
        items: Mapping[Any, Any] = found
        for key, value in items.items():
            yield from _values(value, secret=secret or (isinstance(key, str) and is_secret_name(key)))
    elif isinstance(found, list | tuple | set | frozenset):
        for value in found:
            yield from _values(value, secret=secret)
