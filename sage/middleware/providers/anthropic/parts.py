"""The parts of a message in OpenAI's shape as Anthropic's blocks: texts, pictures, files.

Source: Anthropic's API reference, *Messages*; OpenAI's, *chat/completions* (``image_url``, ``file``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.wire.json_values import string

Refuse = Callable[[str, str], None]
"""``refuse(field, why)`` raises for what Anthropic does not have, or returns if the model leaves out such fields."""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*?(;base64)?,", re.ASCII)
_OWN = frozenset({"image", "document", "search_result"})
"""Anthropic's own blocks, which some agents send to every server."""


def part_block(part: Mapping[str, Any], where: str, refuse: Refuse) -> dict[str, Any] | None:
    """The block of a part; ``None`` for one that is left out, or says nothing."""
    kind = part.get("type")
    block: dict[str, Any] | None
    if kind in ("text", "refusal"):
        text = string(part.get(kind))
        block = {"type": "text", "text": text} if text else None
    elif kind == "image_url":
        image = part.get("image_url")
        block = {"type": "image", "source": _image(image.get("url") if isinstance(image, dict) else image, where)}
    elif kind == "file":
        block = _document(part, where, refuse)
    elif isinstance(kind, str) and kind in _OWN:
        block = {key: value for key, value in part.items() if value is not None}
    elif kind in ("thinking", "reasoning"):
        return None  # what an earlier answer thought; `thinking_blocks` has it with its signature
    else:
        refuse(where, f" (a part of the type '{kind}'; it takes text, image_url and file)")
        return None
    return None if block is None else with_cache_control([block], part)[0]


def with_cache_control(blocks: list[dict[str, Any]], marked: Any) -> list[dict[str, Any]]:
    """``blocks``, the last with the ``cache_control`` of ``marked``, if that has one: what is before it is cached."""
    mark = marked.get("cache_control") if isinstance(marked, Mapping) else None
    if blocks and isinstance(mark, dict):
        blocks[-1]["cache_control"] = mark
    return blocks


def _image(url: Any, where: str) -> dict[str, Any]:
    if not isinstance(url, str) or not url:
        raise InvalidRequest(f"{where}.image_url must carry a URL", param=f"{where}.image_url")
    head = _DATA_URL.match(url)
    if head is None:
        return {"type": "url", "url": url}
    if not head[2]:
        raise InvalidRequest(f"{where}.image_url must be in base64", param=f"{where}.image_url")
    return {"type": "base64", "media_type": head[1] or "image/png", "data": url[head.end() :]}


def _document(part: Mapping[str, Any], where: str, refuse: Refuse) -> dict[str, Any] | None:
    """The block of a file that came along: a PDF, or a text."""
    file = part.get("file")
    data = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(file, dict) or not isinstance(data, str) or not data:
        refuse(f"{where}.file", " without 'file_data': files are sent along with the request")
        return None
    source = _document_source(data, where, refuse)
    if source is None:
        return None
    block: dict[str, Any] = {"type": "document", "source": source}
    title = part.get("title") or file.get("filename")
    if title and isinstance(title, str):
        block["title"] = title
    for field in ("context", "citations"):
        if part.get(field):
            block[field] = part[field]
    return block


def _document_source(data: str, where: str, refuse: Refuse) -> dict[str, Any] | None:
    head = _DATA_URL.match(data)
    if head is None and data.startswith(("http://", "https://")):
        return {"type": "url", "url": data}
    media_type = (head[1] or "text/plain") if head is not None else "application/pdf"
    content = data[head.end() :] if head is not None else data
    is_base64 = head is None or bool(head[2])
    if media_type == "application/pdf" and is_base64:
        return {"type": "base64", "media_type": media_type, "data": content}
    if media_type.startswith("text/") or media_type == "application/json":
        text = _decoded(content, where) if is_base64 else content
        return {"type": "text", "media_type": "text/plain", "data": text}
    refuse(f"{where}.file", f" of the type '{media_type[:100]}' (it takes application/pdf and text)")
    return None


def _decoded(content: str, where: str) -> str:
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(
            f"{where}.file.file_data must be a text in UTF-8 and base64", param=f"{where}.file.file_data"
        ) from exc
