"""What must never be shown: which names hold secrets, and texts with their secrets blotted out. Pure."""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "is_secret_name", "redact"]

HIDDEN = "***"

_WORDS = r"api_?key|key_?id|secret|token|password|passwd|passphrase|pwd|credentials?|authorization"
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:{_WORDS}|key)(?:$|[_-])", re.IGNORECASE)
# Up to the last @ before the path: a password that holds an unescaped @ must go whole.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/?#\"']*@", re.IGNORECASE)
# password=… in a libpq string or a query, "api_key": "…" in JSON.
_ASSIGNED = re.compile(
    rf"(?P<name>(?:{_WORDS})[\"']?\s*[=:]\s*)(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|(?:Bearer\s+)?[^\s&,;\"'}})]+)",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Say whether a setting or log key with this name holds a secret (``api_key``, ``rest_token`` …)."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Blot out the user part of URLs and the values of ``password=…`` and its like.

    >>> redact("postgresql://bob:pw@db/md?sslmode=require")
    'postgresql://***@db/md?sslmode=require'
    """
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _ASSIGNED.sub(_hidden, text)


def _hidden(match: re.Match[str]) -> str:
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['name']}{quote}{HIDDEN}{quote}"
