"""How webhooks are signed: Standard Webhooks (github.com/standard-webhooks/standard-webhooks)."""

from __future__ import annotations

import base64
import hmac


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), timestamp, body), "sha256")
    return "v1," + base64.b64encode(signed).decode()
