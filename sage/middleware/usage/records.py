"""One settled call: who asked, what answered, what it used, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from sage.middleware.settings.usage import PriceSettings

NANO = 1_000_000_000
"""Nano-dollars in a US dollar. Money is a whole number of them everywhere."""


class PricedDeployment(Protocol):
    """What a price depends on: a model at a provider, and what its configuration says."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str:
        """The vendor's name for the model."""

    @property
    def price(self) -> PriceSettings | None: ...

    @property
    def provider(self) -> PricedProvider: ...


class PricedProvider(Protocol):
    """A provider, as far as prices are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def endpoints(self) -> Any:
        """Where it listens, each with a ``base_url``; empty for engines of our own."""


class CallSeries(NamedTuple):
    """What many calls have in common: who asked, what was asked for, and what answered. The ledger keeps it once."""

    tenant: str
    user: str
    key: str
    """The id of the API key; empty for other credentials."""
    model: str
    """The public name of the model that answered."""
    provider: str
    """The provider that was asked last; empty where none was."""
    deployment: str
    upstream_model: str
    operation: str
    stream: bool
    tags: tuple[str, ...] = ()


class UsageRecord(NamedTuple):
    """One call, settled. The ledger stores its ``time`` as a part of an id, its ``series`` as a number, what else
    stands here down to ``steps`` as it is, and no more."""

    time: float
    """When it ended, in Unix seconds."""
    request_id: str
    """The ``x-request-id`` of its request; empty for a call without one. Clients may repeat theirs."""
    series: CallSeries
    attempts: int
    status: int
    """The answer's, 499 where the client left."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's, those that the upstream had in its cache."""
    completion_tokens: int
    reasoning_tokens: int
    """Of the completion's, those of its reasoning."""
    estimated: bool
    """Whether the gateway counted, since the upstream did not say."""
    cost: int | None
    """In nano-dollars; ``None`` means that nobody knows the price."""
    ms: float
    first_token_ms: float | None
    admitted_ms: float | None = None
    """From its beginning until a deployment was looked for."""
    steps: str | None = None
    """What it has met on its way, as a JSON list; ``None`` means nothing but one good answer."""
    reservation: Any = None
    """What the call's budgets had reserved for it, as they gave it."""
    units: Mapping[str, int] | None = None
    """What else has a price (audio and image tokens, searches of a reranker), by genai-prices' names."""

    @property
    def model(self) -> str:
        """The public name of the model that answered."""
        return self.series.model


def priced_counts(
    prompt: int, cached: int, completion: int, reasoning: int, ms: float, units: Mapping[str, int] | None
) -> dict[str, int]:
    """What a call has used of everything that may have a price, by genai-prices' names, and ``milliseconds``."""
    counts = {
        "input_tokens": prompt,
        "cache_read_tokens": cached,
        "output_tokens": completion,
        "output_reasoning_tokens": reasoning,
        "requests": 1,
        "milliseconds": int(ms + 0.5),
    }
    if units:
        counts.update(units)
    return counts


def usd(nano: int | None) -> float | None:
    """Nano-dollars as US dollars."""
    return None if nano is None else round(nano / NANO, 9)
