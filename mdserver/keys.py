"""Client keys: random, stored as a hash, compared in constant time.

A key is ``mds_ID_SECRET``: 12 random bytes in hexadecimal that identify it, and 32 random secret bytes. The config has
``scrypt:COST:ID:DIGEST``; ``ID`` is also the salt. Because a key contains its id, one look-up rejects a wrong key
without scrypt, unless its sender knows an id of the config.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import attrs

__all__ = ["LONGEST_KEY", "KeyHash", "key_id", "new_key"]

COST = 13
"""Binary logarithm of scrypt's N: 8 MiB and about 50 ms for one comparison. The secret itself has 256 bits."""
LONGEST_KEY = 128
"""The most characters of a key; a longer text is refused unread."""

_KEY = re.compile(r"mds_([0-9a-f]{24})_[A-Za-z0-9_-]{43}")
_HASH = re.compile(r"scrypt:(1[0-7]):([0-9a-f]{24}):([0-9a-f]{64})")


@attrs.frozen
class KeyHash:
    """A key's hash in the config. ``cost`` is the binary logarithm of scrypt's N; ``id`` identifies the key."""

    cost: int
    id: str
    digest: str = attrs.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> KeyHash:
        """Parse a hash as printed by ``mdserver keys new``. Raises ValueError, which does not quote the text."""
        match = _HASH.fullmatch(text)
        if match is None:
            raise ValueError("expected the hash that `mdserver keys new NAME` prints")
        return cls(int(match[1]), match[2], match[3])

    def __str__(self) -> str:
        return f"scrypt:{self.cost}:{self.id}:{self.digest}"

    def matches(self, key: str) -> bool:
        """Return whether this is the key's hash. Takes about 50 ms, without the interpreter lock."""
        return hmac.compare_digest(_digest(key, self.cost, self.id), self.digest)


def new_key() -> tuple[str, str]:
    """Make a key; return it and its hash."""
    name = secrets.token_hex(12)
    key = f"mds_{name}_{secrets.token_urlsafe(32)}"
    return key, str(KeyHash(COST, name, _digest(key, COST, name)))


def key_id(key: str) -> str | None:
    """Return the id in a key, or None if the text cannot be a key."""
    if len(key) > LONGEST_KEY:
        return None
    match = _KEY.fullmatch(key)
    return None if match is None else match[1]


def _digest(key: str, cost: int, salt: str) -> str:
    n = 1 << cost
    return hashlib.scrypt(
        key.encode(), salt=bytes.fromhex(salt), n=n, r=8, p=1, maxmem=n * 1024 + (1 << 20), dklen=32
    ).hex()
