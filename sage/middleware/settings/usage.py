"""The settings of the usage ledger, and prices as a configuration states them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration

Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=18, decimal_places=9)]


UNMEASURED = "unmeasured"
"""Among what a call has used: nobody has counted its tokens, so that a price by tokens gives no cost."""
IMAGE_SIZE = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}|[1-9](?:\.[0-9])?k")
IMAGE_QUALITY = re.compile(r"[a-z]{1,12}")


def image_unit(label: str) -> str:
    """What images are called in what a call has used: all of them, or those of a size (``1024x1792``), of a quality
    (``hd``), or of both (``hd/1024x1792``)."""
    return f"images/{label}" if label else "images"


def _image_label(label: str) -> str:
    quality, _, size = label.rpartition("/")
    is_one = IMAGE_SIZE.fullmatch(label) or IMAGE_QUALITY.fullmatch(label)
    if not is_one and not (IMAGE_QUALITY.fullmatch(quality) and IMAGE_SIZE.fullmatch(size)):
        raise ValueError(
            f"'{label}' is no size of images (1024x1792, 2k), no quality (hd), and not both (hd/1024x1792)"
        )
    return label


ImageLabel = Annotated[str, AfterValidator(_image_label)]


class PriceSettings(SettingsSection):
    """What a model costs, in US dollars. What is left out costs nothing of its own: cached tokens then cost what
    ``input`` says, as those of sounds and images do, and tokens of reasoning, of speech and of images in answers what
    ``output`` says.
    """

    input: Usd | None = None
    """A million tokens of prompts."""
    cached: Usd | None = None
    """A million tokens of prompts that the upstream had in its cache."""
    output: Usd | None = None
    """A million tokens of answers."""
    reasoning: Usd | None = None
    """A million tokens of reasoning."""
    audio: Usd | None = None
    """A million tokens of sound in prompts, as the upstream counts them."""
    audio_output: Usd | None = None
    """A million tokens of sound in answers."""
    image: Usd | None = None
    """A million tokens of images in prompts, as the upstream counts them."""
    image_output: Usd | None = None
    """A million tokens of images in answers."""
    characters: Usd | None = None
    """A million characters of texts that are spoken."""
    per_audio_minute: Usd | None = None
    """A minute of a recording that is transcribed."""
    per_image: Usd | None = None
    """An image that is made, of a size or quality that ``image_sizes`` does not have."""
    image_sizes: dict[ImageLabel, Usd] = Field(default_factory=dict)
    """An image that is made, by what the request says of it: the size, the quality, or both (``hd/1024x1792``). The
    price for both goes before that of the size, and this before that of the quality."""
    per_request: Usd | None = None
    per_second: Usd | None = None
    """A second of a call, from its beginning to its end."""


class UsageRetention(SettingsSection):
    """How long the ledger keeps what it knows, in seconds."""

    requests: Duration = 30 * 86400.0
    """Single calls."""
    rollups: Duration = 2 * 365 * 86400.0
    """Sums of a quarter of an hour."""


class UsageSettings(SettingsSection):
    """The ledger of what calls have used."""

    retention: UsageRetention = Field(default_factory=UsageRetention)
    published_prices: bool = True
    """Whether vendors' published prices are looked up (a process of a second, when a model is first used)."""
    max_waiting: int = Field(200_000, ge=1)
    """Calls that wait in memory while the database cannot be written; the oldest are dropped beyond it."""
