"""What a call for sounds or images may use at most, as far as its request tells: what its budgets reserve.

The numbers are of OpenAI's pages on prices, audio and images: a large image of the best quality has 6,240 tokens, a
second of sound about 17 going in and 21 coming out, and fifteen characters are a second of speech.
"""

from __future__ import annotations

from typing import NamedTuple

from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.usage.estimates import upper_bound_prompt

_OF_AN_IMAGE = 6400
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
    answer = images * (_OF_AN_IMAGE + partial * _OF_A_PARTIAL_IMAGE)
    return MediaBound(tokens + looked_at, answer, {"images": images})


def _count(value: object, without: int) -> int:
    return value if isinstance(value, int) and value > 0 else without
