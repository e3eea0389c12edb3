"""What a call for sounds or images has used, where its upstream has not said it: what can be counted of the request and
of the answer, by genai-prices' names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sage.middleware.providers.base import MeasuredUsage, Operation, Usage
from sage.middleware.settings.usage import IMAGE_QUALITY, IMAGE_SIZE, UNMEASURED, image_unit

_IMAGES = frozenset({Operation.IMAGES, Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS})
_MOST = 10**9


def measured_usage(operation: Operation, request: Mapping[str, Any], facts: Mapping[str, Any], images: int) -> Usage:
    """Characters that are to be spoken, images that have come or else were asked for, seconds of a recording that its
    transcript tells. No tokens are counted, which :data:`UNMEASURED` says: a price by tokens gives no cost then."""
    units: dict[str, int] = {UNMEASURED: 1}
    if operation is Operation.SPEECH:
        text = request.get("input")
        units["input_characters"] = len(text) if isinstance(text, str) else 0
    elif operation in _IMAGES:
        asked = request.get("n")
        units |= image_units(request, images or (asked if isinstance(asked, int) else 1))
    else:
        duration = facts.get("duration")
        if isinstance(duration, int | float | str) and (seconds := _seconds(duration)):
            units["input_audio_seconds"] = seconds
    return MeasuredUsage(units=units)


def image_units(request: Mapping[str, Any], images: int) -> dict[str, int]:
    """``images`` of the size and the quality that ``request`` asks for, under each name that a price may have for them
    (:func:`sage.middleware.settings.usage.image_unit`)."""
    size = _matching(IMAGE_SIZE, request.get("size")) or _matching(IMAGE_SIZE, request.get("resolution"))
    quality = _matching(IMAGE_QUALITY, request.get("quality"))
    labels = {size, quality, f"{quality}/{size}" if size and quality else ""}
    return {image_unit(label): images for label in ("", *labels)}


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) is not None else ""


def _seconds(duration: float | str) -> int:
    """Whole seconds, the last one counted fully."""
    try:
        seconds = float(duration)
    except ValueError:
        return 0
    return math.ceil(seconds) if 0 < seconds < _MOST else 0
