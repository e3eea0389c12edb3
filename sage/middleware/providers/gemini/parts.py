"""The parts of a message in OpenAI's shape as Google's: texts, pictures, sounds, files.

Source: Google's API reference (``Content``, ``Part``, ``Blob``, ``FileData``).
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from sage.errors import InvalidRequest
from sage.middleware.providers.wire.json_values import string

Refuse = Callable[[str, str], None]
"""``refuse(field, why)`` raises for what Google does not have, or returns if the model leaves out such fields."""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*?(;base64)?,", re.ASCII)
_MEDIA = {"image_url": "image/jpeg", "video_url": "video/mp4"}
"""Parts with a URL, each with the type of what has no name that tells."""


def parts_of(content: Any, where: str, refuse: Refuse) -> list[dict[str, Any]]:
    """The parts of a ``content``. Empty texts are left out."""
    if not isinstance(content, list):
        return [{"text": content}] if content else []
    return [each for n, part in enumerate(content) if (each := _part(part, f"{where}.content[{n}]", refuse))]


def _part(part: Mapping[str, Any], where: str, refuse: Refuse) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = string(part.get(kind))
        return {"text": text} if text else None
    if isinstance(kind, str) and kind in _MEDIA:
        media = part.get(kind)
        return _media(media.get("url") if isinstance(media, dict) else media, _MEDIA[kind], f"{where}.{kind}")
    if kind == "input_audio":
        return _audio(part.get("input_audio"), f"{where}.input_audio")
    if kind == "file":
        file = part.get("file")
        data = file.get("file_data") if isinstance(file, dict) else None
        if data:
            return _media(data, "application/pdf", f"{where}.file.file_data")
        refuse(f"{where}.file", " without 'file_data': files are sent along with the request")
        return None
    if kind in ("thinking", "reasoning"):
        return None
    refuse(where, f" (a part of the type '{kind}'; it takes text, image_url, video_url, input_audio and file)")
    return None


def _media(url: Any, usual: str, where: str) -> dict[str, Any]:
    if not isinstance(url, str) or not url:
        raise InvalidRequest(f"{where} must carry a URL", param=where)
    head = _DATA_URL.match(url)
    if head is not None:
        data = url[head.end() :]
        if not head[2]:
            data = base64.b64encode(unquote_to_bytes(data)).decode()
        return {"inlineData": {"mimeType": head[1] or usual, "data": data}}
    if url.startswith(("http://", "https://", "gs://")):
        named, _ = mimetypes.guess_type(urlsplit(url).path)
        return {"fileData": {"mimeType": named or usual, "fileUri": url}}
    return {"inlineData": {"mimeType": usual, "data": url}}


def _audio(audio: Any, where: str) -> dict[str, Any]:
    data = audio.get("data") if isinstance(audio, dict) else None
    kind = audio.get("format", "wav") if isinstance(audio, dict) else None
    if not isinstance(data, str) or not isinstance(kind, str):
        raise InvalidRequest(f"{where} must have 'data' in base64 and a 'format'", param=where)
    return {"inlineData": {"mimeType": f"audio/{kind}", "data": data}}
