"""Which price a deployment has: its own, else that of ``llm.prices``, else what its vendor publishes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from sage.middleware.settings.usage import PriceSettings
from sage.middleware.usage.prices import FREE, Price, configured_price, published_price
from sage.middleware.usage.records import PricedDeployment
from sage.middleware.usage.vendor_prices import Question, describe_all

SELF_HOSTED = frozenset({"local", "ollama", "vllm", "lmstudio", "llamacpp", "sglang"})
"""Kinds of providers that run on machines of ours: a call costs nothing unless the configuration says so."""

_VENDORS: Mapping[str, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "cohere": "cohere",
    "zhipu": "zhipuai",
    "deepseek": "deepseek",
    "groq": "groq",
    "openrouter": "openrouter",
    "moonshot": "moonshotai",
    "minimax": "minimax",
    "mistral": "mistral",
    "together": "together",
    "fireworks": "fireworks",
    "xai": "x-ai",
    "perplexity": "perplexity",
    "azure": "azure",
}
"""The ids that genai-prices has for our kinds of providers."""
_MOST_KNOWN = 20_000
_RETRY = 60.0
"""Seconds until prices are looked up again after that failed."""
_log = logging.getLogger("sage")

Key = tuple[str, str]
"""A provider's name, and the vendor's name for the model."""


class PriceList:
    """The prices of all deployments. Safe to use from several threads.

    Published prices are looked up in a process of their own, once a model; until then a price is *unresolved*.
    """

    def __init__(
        self,
        patterns: Mapping[str, PriceSettings] | None = None,
        deployments: Callable[[], Iterable[PricedDeployment]] = tuple,
        describe: Callable[[Sequence[Question]], list[object]] | None = describe_all,
    ) -> None:
        """``patterns`` are ``llm.prices``; ``deployments`` gives those that will be asked for soon, so that one process
        looks up the prices of all. ``describe`` looks them up; without it only configured prices are known."""
        self._patterns = dict(patterns or {})
        self._deployments = deployments
        self._describe = describe
        self._published: dict[Key, Price | None] = {}
        self._own: dict[int, tuple[PriceSettings, Price]] = {}
        """By the identity of the settings, which are held, since a hash of them takes longer than the rest."""
        self._lock = threading.Lock()
        self._failed_at: float | None = None

    def replace(self, patterns: Mapping[str, PriceSettings]) -> None:
        """Goes by other ``llm.prices`` from now on."""
        with self._lock:
            self._patterns = dict(patterns)
            self._published.clear()

    def find(self, deployment: PricedDeployment) -> tuple[bool, Price | None]:
        """Whether the price is resolved, and the price; ``None`` means that nobody knows it."""
        settings = deployment.price
        if settings is not None:
            own = self._own.get(id(settings))
            return True, own[1] if own is not None else self._configured(settings)
        key = deployment.provider.name, deployment.model
        try:
            return True, self._published[key]
        except KeyError:
            pass
        for pattern, settings in self._patterns.items():
            if fnmatchcase(f"{key[0]}/{key[1]}", pattern) or fnmatchcase(key[1], pattern):
                return True, self._remember(key, self._configured(settings))
        kind = deployment.provider.kind
        if kind in SELF_HOSTED:
            return True, self._remember(key, FREE)
        if self._describe is None or (kind not in _VENDORS and _address(deployment) is None):
            return True, self._remember(key, None)
        return False, None

    def is_resolved(self, deployments: Iterable[PricedDeployment]) -> bool:
        """Whether the prices of all of them were looked up."""
        return all(self.find(deployment)[0] for deployment in deployments)

    async def resolve(self, deployments: Sequence[PricedDeployment]) -> None:
        """Returns once the prices of all are looked up; that takes about a second, once a model."""
        if not self.is_resolved(deployments):
            await asyncio.to_thread(self.load, deployments)

    def load(self, deployments: Iterable[PricedDeployment]) -> None:
        """As :meth:`resolve`; blocks."""
        with self._lock:
            wanted = {
                (each.provider.name, each.model): (_VENDORS.get(each.provider.kind), _address(each), each.model)
                for each in (*deployments, *self._deployments())
                if not self.find(each)[0]
            }
            if not wanted or self._describe is None:
                return
            if self._failed_at is not None and time.monotonic() - self._failed_at < _RETRY:
                return
            try:
                described = self._describe(list(wanted.values()))
            except (OSError, ValueError) as exc:
                self._failed_at = time.monotonic()
                _log.error("the prices of models cannot be looked up, so calls of them have no cost: %s", exc)
                return
            self._failed_at = None
            for key, each in zip(wanted, described, strict=True):
                self._remember(key, published_price(each) if isinstance(each, list) else None)

    def _configured(self, settings: PriceSettings) -> Price:
        known = self._own.get(id(settings))
        if known is None:
            if len(self._own) >= _MOST_KNOWN:
                self._own.clear()
            known = self._own[id(settings)] = settings, configured_price(settings)
        return known[1]

    def _remember(self, key: Key, price: Price | None) -> Price | None:
        while len(self._published) >= _MOST_KNOWN:
            self._published.pop(next(iter(self._published)), None)
        self._published[key] = price
        return price


def _address(deployment: PricedDeployment) -> str | None:
    endpoints = deployment.provider.endpoints
    address = endpoints[0].base_url if endpoints else None
    return address if isinstance(address, str) else None
