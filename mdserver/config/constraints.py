"""Read from the attrs validators and metadata of a settings class what each field allows.

Both the error messages (``expected an integer from 0 to 65535``) and the JSON Schema are made from it. Plugins need
nothing of ours: they use ``attrs.validators`` and the metadata keys ``secret`` (never show the value), ``help`` (one
line for the schema) and ``expected`` (what an error message has in place of the type).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from ..redact import is_secret_name

__all__ = ["is_secret", "limits", "range_words"]


def is_secret(field: attrs.Attribute[Any]) -> bool:
    """Return whether the field's value must never be shown: metadata ``secret`` decides, else the name."""
    return bool(field.metadata.get("secret", is_secret_name(field.name)))


def limits(validator: object) -> dict[str, Any]:
    """Return a validator's limits as JSON Schema keywords; an unknown validator adds none.

    The classes of attrs' validators are private, but their fields have not changed for years; a test pins each.
    """
    found: dict[str, Any] = {}
    for part in _parts(validator):
        operator, bound = getattr(part, "compare_op", None), getattr(part, "bound", None)
        if operator in _OPERATORS and isinstance(bound, int | float):
            found[_OPERATORS[operator]] = bound
        elif isinstance(pattern := getattr(part, "pattern", None), re.Pattern):
            found["pattern"] = f"^(?:{pattern.pattern})$"
        elif isinstance(shortest := getattr(part, "min_length", None), int):
            found["minLength"] = shortest
        elif isinstance(longest := getattr(part, "max_length", None), int):
            found["maxLength"] = longest
        elif (options := getattr(part, "options", None)) is not None:
            found["enum"] = sorted(options, key=str)
    return found


def range_words(kind: str, found: dict[str, Any]) -> str:
    """Return ``kind`` with its limits in words: ``an integer from 0 to 65535``; empty text if there are no limits."""
    if "enum" in found:
        return "one of " + ", ".join(map(str, found["enum"]))
    low, high = found.get("minimum"), found.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    words = [f"{text} {found[key]}" for key, text in _WORDS.items() if key in found]
    return f"{kind} {' and '.join(words)}" if words else ""


_OPERATORS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
_WORDS = {
    "minimum": "not less than",
    "exclusiveMinimum": "greater than",
    "maximum": "not greater than",
    "exclusiveMaximum": "less than",
    "minLength": "with a length of at least",
    "maxLength": "with a length of at most",
    "pattern": "that matches",
}


def _parts(validator: object) -> Iterator[object]:
    if validator is None:
        return
    if isinstance(several := getattr(validator, "_validators", None), tuple):
        for one in several:
            yield from _parts(one)
    elif (inner := getattr(validator, "validator", None)) is not None:
        yield from _parts(inner)
    else:
        yield validator
