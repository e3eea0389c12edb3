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


class UsageRecord(NamedTuple):
    """One call, settled. The ledger stores all of it but ``reservation`` and ``units``."""

    time: float
    """When it ended, in Unix seconds."""
    request_id: str
    """The ``x-request-id`` of its request; empty for a call without one. Clients may repeat theirs."""
    tenant: str
    user: str
    key: str
    """The id of the API key; empty for other credentials."""
    tags: tuple[str, ...]
    model: str
    """The public name that was asked for."""
    provider: str
    """The provider that was asked last; empty where none was."""
    deployment: str
    upstream_model: str
    operation: str
    stream: bool
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
    reservation: Any = None
    """What the call's budgets had reserved for it, as they gave it."""
    units: Mapping[str, int] | None = None
    """What else has a price (audio and image tokens, searches of a reranker), by genai-prices' names."""

    @property
    def priced(self) -> bool:
        """Whether its cost is known."""
        return self.cost is not None

    @property
    def tokens(self) -> int:
        """Those of prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def counts(self) -> dict[str, int]:
        """Everything that may have a price, by genai-prices' names, and ``milliseconds``."""
        counts = {
            "input_tokens": self.prompt_tokens,
            "cache_read_tokens": self.cached_tokens,
            "output_tokens": self.completion_tokens,
            "output_reasoning_tokens": self.reasoning_tokens,
            "requests": 1,
            "milliseconds": int(self.ms + 0.5),
        }
        if self.units:
            counts.update(self.units)
        return counts
