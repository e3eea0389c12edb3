"""About how many tokens the images, sounds and files of a request have, and how many at most.

An image is counted by OpenAI's rule for its size: 85 tokens, and 170 for each tile of 512 pixels once it fits into 2048
and its shorter side into 768 (https://platform.openai.com/docs/guides/images-vision); at most what Anthropic's rule
says where that is more: a token for 750 square pixels, of up to 1,600 (https://docs.anthropic.com/en/docs/vision). The
size stands in the first bytes of a data URL. A sound has 10 tokens a second at OpenAI and 32 at Google.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

MEDIA = frozenset({"image_url", "input_audio", "file", "video_url", "image", "audio_url", "source"})
"""Fields of a message's parts that hold no text."""
_UNKNOWN = 500
_UNKNOWN_MOST = 1600
_LOW_DETAIL = 85
_TILE, _EACH_TILE = 512, 170
_FITS, _SHORTER = 2048, 768
_SQUARE_PIXELS, _SQUARE_MOST = 750, 1600
_HEAD = 65_536
"""Characters of base64 in which an image says how large it is; of a photo's preview before that there may be as many.
"""
_BYTES_A_SECOND = 16_000
"""Of compressed speech; of a WAV its head tells."""
_LEAST_BYTES_A_SECOND = 2_000
_TOKENS_A_SECOND, _MOST_TOKENS_A_SECOND = 10, 32


def media_tokens(field: str, value: Any) -> tuple[int, int]:
    """About how many tokens the medium in ``field`` of a message's part has, and how many at most."""
    if field == "input_audio":
        return _sound(value)
    if field not in ("image_url", "image", "source"):
        return _UNKNOWN, _UNKNOWN_MOST
    if isinstance(value, Mapping) and value.get("detail") == "low":
        return _LOW_DETAIL, _LOW_DETAIL
    size = _image_size(_base64_of(value))
    if size is None:
        return _UNKNOWN, _UNKNOWN_MOST
    tiles = _tiled(*size)
    return tiles, max(tiles, min(_SQUARE_MOST, -(-size[0] * size[1] // _SQUARE_PIXELS)))


def _base64_of(value: Any) -> str:
    """What stands after the comma of a data URL, or alone; empty for an address."""
    if isinstance(value, Mapping):
        value = value.get("url") or value.get("data")
    if not isinstance(value, str) or value.startswith(("http:", "https:")):
        return ""
    return value.partition(",")[2] if value.startswith("data:") else value


def _tiled(width: int, height: int) -> int:
    shrunk = min(1.0, _FITS / max(width, height))
    shrunk *= min(1.0, _SHORTER / (min(width, height) * shrunk))
    tiles = math.ceil(round(width * shrunk, 3) / _TILE) * math.ceil(round(height * shrunk, 3) / _TILE)
    return _LOW_DETAIL + _EACH_TILE * tiles


def _decoded(text: str, characters: int) -> bytes:
    text = text[: characters // 4 * 4]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _image_size(text: str) -> tuple[int, int] | None:
    """Width and height in pixels, of a PNG, GIF, WebP or JPEG; ``None`` where its head does not say."""
    head = _decoded(text, 64)
    size: tuple[int, int] | None = None
    if head.startswith(b"\x89PNG") and head[12:16] == b"IHDR":
        size = _number(head, 16, 4), _number(head, 20, 4)
    elif head.startswith(b"GIF8"):
        size = _number(head, 6, 2, "little"), _number(head, 8, 2, "little")
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        size = _webp_size(head)
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg_size(_decoded(text, _HEAD))
    return size if size is not None and min(size) > 0 else None


def _number(data: bytes, at: int, length: int, order: Any = "big") -> int:
    return int.from_bytes(data[at : at + length], order)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return _number(head, 24, 3, "little") + 1, _number(head, 27, 3, "little") + 1
    if kind == b"VP8 ":
        return _number(head, 26, 2, "little") & 0x3FFF, _number(head, 28, 2, "little") & 0x3FFF
    if kind == b"VP8L":
        bits = _number(head, 21, 4, "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """That of its frame: a marker C0 to CF that is no table (C4, C8, CC)."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(data, at + 7, 2), _number(data, at + 5, 2)
        at += 2 + _number(data, at + 2, 2)
    return None


def _sound(value: Any) -> tuple[int, int]:
    text = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        return _UNKNOWN, _UNKNOWN_MOST
    size, head = len(text) * 3 // 4, _decoded(text, 64)
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE" and (rate := _number(head, 28, 4, "little")) > 0:
        seconds = most = size / rate
    else:
        seconds, most = size / _BYTES_A_SECOND, size / _LEAST_BYTES_A_SECOND
    return math.ceil(_TOKENS_A_SECOND * seconds), math.ceil(_MOST_TOKENS_A_SECOND * most)
