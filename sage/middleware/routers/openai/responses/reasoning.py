"""What is carried in ``encrypted_content`` of a reasoning item: the model's reasoning, and a vendor's signatures.

It is opaque to clients, who pass it back; so a model behind chat completions gets its own reasoning again, and with it
what its vendor needs to accept it (``thinking_blocks``). It holds nothing that the item's reader may not see, and is
not encrypted: what vendors hide they have encrypted themselves. An upstream's own ``encrypted_content`` is another's.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from sage.middleware.providers.wire.json_values import objects

_MARK = "sage1."


def sealed(text: str, blocks: list[dict[str, Any]]) -> str:
    """The ``encrypted_content`` for reasoning with its signed ``blocks``, which may be none."""
    content = {"text": text, "blocks": blocks} if blocks else {"text": text}
    return _MARK + base64.urlsafe_b64encode(orjson.dumps(content)).decode()


def is_ours(content: Any) -> bool:
    """Whether an ``encrypted_content`` is one of :func:`sealed`."""
    return isinstance(content, str) and content.startswith(_MARK)


def opened(content: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """What :func:`sealed` was given; ``None`` for anything else."""
    if not is_ours(content):
        return None
    try:
        value = orjson.loads(base64.urlsafe_b64decode(content[len(_MARK) :]))
    except (ValueError, binascii.Error):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return None
    return value["text"], objects(value.get("blocks"))
