"""What a call for sounds or images may use at most, as far as its request tells: what its budgets reserve.

Images: the tokens of the best quality by gpt-image-2's calculator, as posts in OpenAI's forum have it (7,024 for
1024 x 1024, at most 23,718); gpt-image-1 has fewer, and the 100 of a partial image are from memory. Sounds: OpenAI's
estimates of a minute over its prices of a token are 1,000 tokens a minute for gpt-4o-transcribe and 1,250 for
gpt-4o-mini-tts; its page *Managing costs* (realtime) has 10 and 20 a second. Fifteen characters for a second of speech,
five tokens for what is said in one, and 32 kbit/s are guesses.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.media_usage import image_units
from sage.middleware.usage.estimates import upper_bound_prompt

_OF_AN_IMAGE = 7100
"""Without a size, which is one of the usual ones then (up to 1536 pixels a side)."""
_OF_THE_LARGEST = 23_718
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_STEPS = 96
"""Of the longer side at the best quality; the shorter one has its part of them."""
_OF_A_PARTIAL_IMAGE = 100
_BYTES_A_SECOND = 4000
"""Of a recording: 32 kbit/s, which is little; what has more bytes is shorter."""
_HEARD_A_SECOND, _WRITTEN_A_SECOND = 17, 5
_SPOKEN_A_CHARACTER = 2


class MediaBound(NamedTuple):
    """Tokens of the prompt and of the answer, and what else has a price, by genai-prices' names."""

    tokens: int
    answer: int
    units: dict[str, int]


def media_bound(call: ModelCall, most_bytes: int) -> MediaBound:
    """For a form whose size nobody knows it is that of one of ``most_bytes``."""
    body, tokens = call.body, upper_bound_prompt(call.body)
    if call.operation is Operation.SPEECH:
        characters = len(body.get("input") or "")
        return MediaBound(tokens, _SPOKEN_A_CHARACTER * characters + 64, {"input_characters": characters})
    if call.operation in (Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS):
        size = call.form.size if call.form is not None else None
        seconds = (most_bytes if size is None else size) // _BYTES_A_SECOND + 1
        heard, written = seconds * _HEARD_A_SECOND, seconds * _WRITTEN_A_SECOND
        return MediaBound(tokens + heard, written + 64, {"input_audio_seconds": seconds})
    images, partial = _count(body.get("n"), 1), _count(body.get("partial_images"), 0)
    looked_at = 0 if call.operation is Operation.IMAGES else _OF_AN_IMAGE
    answer = images * (_of_size(body.get("size")) + partial * _OF_A_PARTIAL_IMAGE)
    return MediaBound(tokens + looked_at, answer, image_units(body, images))


def _of_size(size: object) -> int:
    """Tokens of an image of ``size`` (``1024x1536``)."""
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        return _OF_AN_IMAGE
    short, long = sorted(map(int, match.groups()))
    tokens = _STEPS * round(_STEPS * short / long) * (2_000_000 + short * long) // 4_000_000 + 1
    return min(max(tokens, _OF_AN_IMAGE), _OF_THE_LARGEST)


def _count(value: object, without: int) -> int:
    return value if isinstance(value, int) and value > 0 else without
