"""Google's signatures of thoughts in the chat shape, through which they come back in a loop of tools.

They stand where Google's own server of OpenAI's wire has them, ``extra_content.google.thought_signature`` of a call or
of a message, and, for surfaces that know ``thinking_blocks`` alone, in the signature of such a block, marked as
Google's. A call without one, which another vendor's model has made, gets the word by which Google lets it pass.

Source: Google's guide on thought signatures (Gemini API).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.middleware.providers.wire.json_values import objects, string

FOREIGN_CALL = "skip_thought_signature_validator"
_MARK = "gemini:"


def extra_content(signature: str) -> dict[str, Any]:
    """The field of a call or message that carries ``signature``."""
    return {"extra_content": {"google": {"thought_signature": signature}}}


def thinking_block(thinking: str, signature: str) -> dict[str, Any]:
    """The entry of ``thinking_blocks`` that carries ``signature``."""
    return {"type": "thinking", "thinking": thinking, "signature": _MARK + signature}


def is_googles(signature: str) -> bool:
    """Whether a signature in ``thinking_blocks`` is Google's."""
    return signature.startswith(_MARK)


def signature_of(carrier: Mapping[str, Any]) -> str:
    """The signature in the ``extra_content`` of a call or message; empty without one."""
    extra = carrier.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return string(google.get("thought_signature")) if isinstance(google, dict) else ""


def signature_in_blocks(message: Mapping[str, Any]) -> str:
    """The first of Google's signatures among a message's ``thinking_blocks``; empty without one."""
    signatures = (string(block.get("signature")) for block in objects(message.get("thinking_blocks")))
    return next((each.removeprefix(_MARK) for each in signatures if is_googles(each)), "")
