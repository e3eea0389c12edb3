"""The settings of the usage ledger, and prices as a configuration states them."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration

Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=18, decimal_places=9)]


UNMEASURED = "unmeasured"
"""Among what a call has used: nobody has counted its tokens, so that a price by tokens gives no cost."""


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
    """An image that is made."""
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
