"""Client keys: made at random, kept as a hash, compared in constant time.

A key is ``mds_ID_SECRET``: 12 random bytes in hexadecimal that name it, and 32 random bytes that prove it. The config
holds ``scrypt:COST:ID:DIGEST``; ``ID`` is the salt too. Since a key brings its own name, a wrong key is told from the
right ones by one look-up, and costs no scrypt unless somebody has read the config.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import attrs

__all__ = ["LONGEST_KEY", "KeyHash", "key_id", "new_key"]

COST = 13
"""Binary logarithm of scrypt's N: 8 MiB and some 50 ms for one comparison. The secret has 256 bits of its own."""
LONGEST_KEY = 128
"""Characters; what is longer is no key, and is not looked at."""

_KEY = re.compile(r"mds_([0-9a-f]{24})_[A-Za-z0-9_-]{43}")
_HASH = re.compile(r"scrypt:(1[0-7]):([0-9a-f]{24}):([0-9a-f]{64})")


@attrs.frozen
class KeyHash:
    """What the config holds of a key. ``cost`` is the binary logarithm of scrypt's N; ``id`` names the key."""

    cost: int
    id: str
    digest: str = attrs.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> KeyHash:
        """Read a hash as ``mdserver keys new`` prints it. Raises ValueError, without the text."""
        match = _HASH.fullmatch(text)
        if match is None:
            raise ValueError("expected the hash that `mdserver keys new NAME` prints")
        return cls(int(match[1]), match[2], match[3])

    def __str__(self) -> str:
        return f"scrypt:{self.cost}:{self.id}:{self.digest}"

    def matches(self, key: str) -> bool:
        """Tell whether this is the key's hash. Takes some 50 ms and lets go of the interpreter meanwhile."""
        return hmac.compare_digest(_digest(key, self.cost, self.id), self.digest)


def new_key() -> tuple[str, str]:
    """Make a key; return it and its hash."""
    name = secrets.token_hex(12)
    key = f"mds_{name}_{secrets.token_urlsafe(32)}"
    return key, str(KeyHash(COST, name, _digest(key, COST, name)))


def key_id(key: str) -> str | None:
    """Return the name that a key brings; None if it cannot be a key."""
    if len(key) > LONGEST_KEY:
        return None
    match = _KEY.fullmatch(key)
    return None if match is None else match[1]


def _digest(key: str, cost: int, salt: str) -> str:
    n = 1 << cost
    return hashlib.scrypt(
        key.encode(), salt=bytes.fromhex(salt), n=n, r=8, p=1, maxmem=n * 1024 + (1 << 20), dklen=32
    ).hex()
