"""The text of an API key: ``sk-sage-<id>-<secret><checksum>``.

The checksum is the CRC-32 of all before it, so that a mistyped key is refused before any look-up; it protects nothing.
The secret has 238 random bits, which is why a plain SHA-256 of the whole key is enough to store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "sk-sage-"

_ID = string.ascii_lowercase + string.digits
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(r"sk-sage-([a-z0-9]{12})-[0-9A-Za-z]{40}[0-9A-Za-z]{6}")
_CHECKSUM_LENGTH = 6


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time that its text exists here."""

    id: str
    text: str = field(repr=False)

    @property
    def last4(self) -> str:
        """What listings show of it."""
        return self.text[-4:]

    @property
    def hash(self) -> bytes:
        """What is stored of it."""
        return hash_key(self.text)


def make_key() -> NewKey:
    """A fresh random key."""
    key_id = "".join(secrets.choice(_ID) for _ in range(12))
    body = f"{PREFIX}{key_id}-{''.join(secrets.choice(_BASE62) for _ in range(40))}"
    return NewKey(key_id, body + _checksum(body))


def parse_key(text: str) -> str | None:
    """The id inside a well-formed key whose checksum is right, else none."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return match[1] if hmac.compare_digest(_checksum(body), checksum) else None


def hash_key(text: str) -> bytes:
    """What is stored of a key: the SHA-256 of all of it."""
    return hashlib.sha256(text.encode("ascii")).digest()


def matches(text: str, stored: bytes | None) -> bool:
    """Whether ``text`` is the key behind ``stored``, in a time that does not depend on where they differ."""
    return hmac.compare_digest(hash_key(text), stored or bytes(32)) and stored is not None


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
