"""The text of an API key: ``sk-sage-<id>-<secret><checksum>``.

The checksum is the CRC-32 of the text before it: a mistyped key is refused without a look-up. It protects nothing.
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
    """A new key: the only object that has its text."""

    id: str
    text: str = field(repr=False)

    @property
    def last4(self) -> str:
        """The part that listings show."""
        return self.text[-4:]

    @property
    def hash(self) -> bytes:
        """The hash that is stored."""
        return hash_key(self.text)


def make_key(key_id: str | None = None) -> NewKey:
    """A fresh random key; with ``key_id`` another secret for that key."""
    key_id = key_id or "".join(secrets.choice(_ID) for _ in range(12))
    body = f"{PREFIX}{key_id}-{''.join(secrets.choice(_BASE62) for _ in range(40))}"
    return NewKey(key_id, body + _checksum(body))


def parse_key(text: str) -> str | None:
    """The id in a well-formed key; ``None`` when its shape or its checksum is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return match[1] if hmac.compare_digest(_checksum(body), checksum) else None


def hash_key(text: str) -> bytes:
    """What is stored for a key: the SHA-256 of the whole text."""
    return hashlib.sha256(text.encode("ascii")).digest()


def matches(text: str, stored: bytes | None) -> bool:
    """Whether ``stored`` is the hash of ``text``; takes the same time wherever they differ."""
    return hmac.compare_digest(hash_key(text), stored or bytes(32)) and stored is not None


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
