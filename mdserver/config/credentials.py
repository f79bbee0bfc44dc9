"""A client's credentials in the place of those of the config. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import attrs

from .constraints import is_secret

__all__ = ["credential_keys", "with_credentials"]

T = TypeVar("T")

MAX_CHARACTERS = 4096


def credential_keys(cls: type) -> tuple[str, ...]:
    """Return the keys of a plugin's settings that a client may give: secrets, and those with metadata ``credential``.

    Nothing else: an address given by a client would have the server connect to wherever that client likes.
    """
    fields = attrs.fields(attrs.resolve_types(cls))
    return tuple(f.alias or f.name for f in fields if is_secret(f) or f.metadata.get("credential"))


def with_credentials(settings: T, credentials: Mapping[str, object]) -> T:
    """Return a plugin's settings with a client's credentials.

    Raises ValueError, which names the field and never its value, for a key that may not be given or a refused value.
    """
    allowed = credential_keys(type(settings))
    if not allowed:
        raise ValueError("credentials: this broker takes none")
    if not credentials:
        raise ValueError(f"credentials: expected some of {', '.join(allowed)}, got none")
    for key, value in credentials.items():
        if key not in allowed:
            raise ValueError(f"credentials.{key[:40]}: unknown; expected some of {', '.join(allowed)}")
        if not isinstance(value, str) or not 0 < len(value) <= MAX_CHARACTERS:
            raise ValueError(f"credentials.{key}: expected text of 1 to {MAX_CHARACTERS} characters")
    try:
        return attrs.evolve(settings, **credentials)  # type: ignore[misc]
    except (ValueError, TypeError):
        # The validator's own words may quote the value.
        raise ValueError(
            f"credentials: refused; is each of {', '.join(credentials)} as the venue gave it?"
        ) from None
