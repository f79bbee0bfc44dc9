"""What must never be shown: which names hold secrets, and texts with their secrets blotted out. Pure but for one set.

Secrets are known by their values (:func:`hide_values`, called with those of the config, so that not even an error that
a plugin or a venue wrote shows one) and by how they look (``password=…``, the user part of a URL).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

__all__ = ["HIDDEN", "SHORTEST_SECRET", "hidden", "hide_values", "is_secret_name", "redact"]

HIDDEN = "***"

SHORTEST_SECRET = 4
"""Characters below which a value is not looked for in texts: ``1`` as a password would blot out every number."""

MAX_TEXT = 64 * 1024
"""Characters of a text that are kept: nobody reads more of an error, and looking for secrets takes its time."""

_WORDS = r"api_?key|key_?id|secret|token|password|passwd|passphrase|pwd|credentials?|authorization"
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:{_WORDS}|key)(?:$|[_-])", re.IGNORECASE)
# Up to the last @ before the path: a password that holds an unescaped @ must go whole.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/?#\"']*@", re.IGNORECASE)
# How an error about a secret of the config goes on: the operator reads it whole, and none of it is a value.
_PROBLEM = (
    r"missing, expected |unknown key, |found a value \(hidden\)|found the key twice, |"
    r"environment variable \w+ is not set"
)
# password=… in a libpq string or a query, "api_key": "…" in JSON.
_ASSIGNED = re.compile(
    rf"(?P<name>(?:{_WORDS})[\"']?\s*[=:]\s*)(?!{_PROBLEM})"
    rf"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|(?:Bearer\s+)?[^\s&,;\"'}})]+)",
    re.IGNORECASE,
)


_HALF_WORD = re.compile(r"\S{1,4096}\Z")

_known_values: frozenset[str] = frozenset()
_for_a_while: Counter[str] = Counter()
"""Values that are hidden for a while, and how often that was asked for."""
_hidden_values: re.Pattern[str] | None = None


def hide_values(values: Iterable[str]) -> None:
    """Have :func:`redact` blot out these values too, from now on, also percent-encoded, in JSON or in a repr.

    For the whole process: whatever part of it writes a text, none of them may be in it.
    """
    global _known_values
    _known_values |= {value for value in values if len(value) >= SHORTEST_SECRET}
    _make_pattern()


@contextmanager
def hidden(values: Iterable[str]) -> Iterator[None]:
    """Have :func:`redact` blot out these values while the block runs, wherever in the process a text is written."""
    # A client chooses these: short ones could be words that the log needs.
    mine = [value for value in values if len(value) >= 2 * SHORTEST_SECRET]
    _for_a_while.update(mine)
    _make_pattern()
    try:
        yield
    finally:
        _for_a_while.subtract(mine)
        for value in mine:
            if not _for_a_while[value]:
                del _for_a_while[value]
        _make_pattern()


def _make_pattern() -> None:
    global _hidden_values
    forms = {form for value in _known_values | _for_a_while.keys() for form in _forms(value)}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    _hidden_values = re.compile("|".join(map(re.escape, longest_first))) if forms else None


def _forms(value: str) -> set[str]:
    """Return the forms in which a value may occur in a text."""
    return {value, quote(value, safe=""), quote(value), json.dumps(value)[1:-1], repr(value)[1:-1]}


def is_secret_name(name: str) -> bool:
    """Return whether a setting or log key with this name holds a secret (``api_key``, ``rest_token`` …)."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Blot out the user part of URLs and the values of ``password=…`` and its like.

    Also each value given to :func:`hide_values`. A text of more than :data:`MAX_TEXT` characters is cut.

    >>> redact("postgresql://bob:pw@db/md?sslmode=require")
    'postgresql://***@db/md?sslmode=require'
    """
    if len(text) > MAX_TEXT:
        left_out = len(text) - MAX_TEXT
        # Not in the middle of a word: half a secret would not be found.
        text = _HALF_WORD.sub("", text[: MAX_TEXT - 100]) + f" … ({left_out} more characters)"
    if _hidden_values is not None:
        text = _hidden_values.sub(HIDDEN, text)
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _ASSIGNED.sub(_hidden, text)


def _hidden(match: re.Match[str]) -> str:
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['name']}{quote}{HIDDEN}{quote}"
