"""What a browser keeps for us without being able to read or change it."""

from __future__ import annotations

import base64
import binascii
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_PURPOSE = b"sage-flower 1"
_NONCE_BYTES = 12


class Seal:
    """Seals tokens with a key of its own (AES-256-GCM)."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(256))

    def close(self, token: str, ends_at: int) -> str:
        """The value of a cookie that holds both."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, json.dumps([token, ends_at]).encode("ascii"), _PURPOSE)
        return base64.urlsafe_b64encode(nonce + sealed).decode("ascii").rstrip("=")

    def open(self, value: str) -> tuple[str, int] | None:
        """What :meth:`close` put into ``value``; ``None`` for any other one."""
        try:
            sealed = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
            token, ends_at = json.loads(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE))
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return token, ends_at
