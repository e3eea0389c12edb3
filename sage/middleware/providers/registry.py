"""Which models there are, what answers for them, and the leases under which they answer.

A *model* is a public name with one or more *deployments* (a provider and its own name for the model). Deployments of
the local engine share one :class:`~sage.middleware.providers.lifecycle.ManagedModel`, the owner of that engine's state.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.middleware.providers.base import MAX_NAME, Endpoint, Provider
from sage.middleware.providers.engines import Engine
from sage.middleware.providers.factory import unconfigured
from sage.middleware.providers.lifecycle import ManagedModel
from sage.middleware.providers.listing import Listing
from sage.middleware.settings import KINDS, Timeouts
from sage.middleware.settings import Deployment as DeploymentSettings
from sage.middleware.settings import Model as ModelSettings

# Families of names whose vendor is known: (pattern, provider).
FAMILIES = (
    (re.compile(r"(gpt-|chatgpt-|o\d|text-embedding-|davinci-|babbage-)"), "openai"),
    (re.compile(r"glm-"), "zhipu"),
    (re.compile(r"(command-|embed-|rerank-)"), "cohere"),
)
_REMEMBERED = 1000


class Deployment:
    """One place that answers for a model, and how busy it is."""

    __slots__ = (
        "in_flight",
        "last_used",
        "managed",
        "max_concurrency",
        "model",
        "name",
        "name_in_headers",
        "priority",
        "provider",
        "retries",
        "timeouts",
        "weight",
    )

    def __init__(
        self,
        provider: Provider,
        model: str,
        timeouts: Timeouts,
        managed: ManagedModel | None,
        *,
        weight: float = 1.0,
        priority: int = 0,
        max_concurrency: int | None = None,
        retries: int = 2,
    ) -> None:
        self.provider = provider
        self.model = model
        self.name = f"{provider.name}/{model}"
        # Models may be named in any script; a header's value is ASCII.
        self.name_in_headers = quote(self.name, safe="/:@+,;=()!$&'*~ ").encode()
        self.timeouts = timeouts
        self.managed = managed
        self.weight = weight
        self.priority = priority
        self.max_concurrency = max_concurrency
        self.retries = min(retries, provider.retries)
        self.in_flight = 0
        self.last_used: float | None = None

    def describe(self) -> dict[str, Any]:
        """Its part of ``GET /models/{name}``; times are Unix seconds."""
        return {
            "provider": self.provider.name,
            "model": self.model,
            "kind": self.provider.kind,
            "weight": self.weight,
            "priority": self.priority,
            "state": str(self.managed.state) if self.managed else "ready",
            "in_flight": self.in_flight,
        }


class Lease:
    """``async with`` it: the deployment is ready and counted as busy until the block ends."""

    __slots__ = ("_deployment", "_lease", "_registry")

    def __init__(self, registry: Registry, deployment: Deployment) -> None:
        self._registry = registry
        self._deployment = deployment
        self._lease: Any = None

    async def __aenter__(self) -> Endpoint:
        deployment, busy = self._deployment, self._registry.busy
        provider = deployment.provider
        running = busy.get(provider.name, 0)
        if provider.max_concurrency is not None and running >= provider.max_concurrency:
            raise Unavailable(
                f"the provider '{provider.name}' has its {provider.max_concurrency} requests running "
                f"(llm.providers.{provider.name}.max_concurrency); try again soon",
                code="overloaded",
            )
        if deployment.max_concurrency is not None and deployment.in_flight >= deployment.max_concurrency:
            raise Unavailable(
                f"'{deployment.name}' has its {deployment.max_concurrency} requests running (max_concurrency of its "
                "model); try again soon",
                code="overloaded",
            )
        busy[provider.name] = running + 1
        deployment.in_flight += 1
        try:
            if deployment.managed is not None:
                self._lease = deployment.managed.lease()
                endpoint = await self._lease.__aenter__()
                assert isinstance(endpoint, Endpoint)
                return endpoint
            fixed = provider.endpoint()
            assert fixed is not None
        except BaseException:
            self._release()
            raise
        return fixed

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lease is not None:
                await self._lease.__aexit__(kind, exc, trace)
        finally:
            self._release()

    def _release(self) -> None:
        self._deployment.in_flight -= 1
        self._deployment.last_used = time.time()
        self._registry.busy[self._deployment.provider.name] -= 1


@dataclass(slots=True)
class PublicModel:
    """A name that callers use. ``registered`` tells whether the configuration or the program gave it."""

    name: str
    deployments: list[Deployment]
    fallbacks: tuple[str, ...] = ()
    registered: bool = True
    faults: list[str] = field(default_factory=list)
    """Why deployments that were asked for are not there."""

    @property
    def label(self) -> str:
        """The name in metrics: made from the configuration, never from a request's text."""
        return self.name if self.registered else f"{self.deployments[0].provider.name}/*"

    def describe(self) -> dict[str, Any]:
        """The answer of ``GET /models/{name}``."""
        managed = next((d.managed for d in self.deployments if d.managed), None)
        used = [d.last_used for d in self.deployments if d.last_used is not None]
        state = str(managed.state) if managed and len(self.deployments) == 1 else "ready"
        return {
            "name": self.name,
            "state": state if self.deployments else "failed",
            "provider": self.deployments[0].provider.name if self.deployments else None,
            "deployments": [d.describe() for d in self.deployments],
            "fallbacks": list(self.fallbacks),
            "loaded_at": managed.loaded_at if managed else None,
            "last_used": max(used, default=None),
            "in_flight": sum(d.in_flight for d in self.deployments),
            "error": (managed.error if managed else None)
            or ({"message": "; ".join(self.faults)} if self.faults else None),
        }


class Registry:
    """The owner of all models. It lives on one event loop."""

    def __init__(
        self, providers: Mapping[str, Provider], absent: Mapping[str, str], listing: Listing, keep_alive: float
    ) -> None:
        self.providers = dict(providers)
        self.absent = dict(absent)
        """Providers that are named but cannot serve, and why."""
        self.busy: dict[str, int] = {}
        self._listing = listing
        self._keep_alive = keep_alive
        self._models: dict[str, PublicModel] = {}
        self._managed: dict[tuple[str, str], ManagedModel] = {}
        self._unregistered: dict[str, PublicModel] = {}
        self._loading: set[asyncio.Task[None]] = set()

    def register(self, name: str, settings: ModelSettings) -> PublicModel:
        """Adds or replaces the model of that name. A deployment whose provider cannot serve becomes a fault of it."""
        model = PublicModel(name, [], settings.fallbacks)
        for wanted in settings.deployments:
            provider = self.providers.get(wanted.provider)
            if provider is None:
                reason = self.absent.get(wanted.provider) or unconfigured(wanted.provider)
                model.faults.append(f"provider '{wanted.provider}' cannot serve: {reason}")
            elif wanted.engine is not None:
                model.faults.append(
                    f"'{wanted.provider}' cannot start '{wanted.model}': this version manages no servers"
                )
            else:
                model.deployments.append(self._deploy(provider, wanted, settings))
        self._models[name] = model
        return model

    def _deploy(self, provider: Provider, wanted: DeploymentSettings, settings: ModelSettings) -> Deployment:
        return Deployment(
            provider,
            wanted.model,
            settings.timeouts.over(provider.timeouts),
            self._manage(provider, wanted.model, settings.keep_alive),
            weight=wanted.weight,
            priority=wanted.priority,
            max_concurrency=settings.max_concurrency,
            retries=settings.retries,
        )

    def _manage(self, provider: Provider, model: str, keep_alive: float | None) -> ManagedModel | None:
        spec = provider.engine(model)
        if spec is None:
            return None
        key = (provider.name, model)
        if key not in self._managed:
            self._managed[key] = ManagedModel(model, lambda: Engine(spec, model), keep_alive or self._keep_alive)
        return self._managed[key]

    def register_known(self) -> None:
        """Gives every model that a provider knows of itself its own name, where the configuration has not."""
        for provider in self.providers.values():
            for name in provider.known_models():
                if name not in self._models:
                    self.register(
                        name, ModelSettings(deployments=(DeploymentSettings(provider=provider.name, model=name),))
                    )

    def models(self) -> Iterable[PublicModel]:
        """The registered models, by name."""
        return (self._models[name] for name in sorted(self._models))

    def complaints(self) -> list[str]:
        """What of the configuration cannot serve, a line each."""
        lines = [f"provider '{name}' cannot serve: {reason}" for name, reason in sorted(self.absent.items())]
        for provider in self.providers.values():
            lines += [f"model '{name}' cannot serve: {reason}" for name, reason in provider.complaints()]
        for model in self.models():
            lines += [f"model '{model.name}': {fault}" for fault in model.faults]
            for name in model.fallbacks:
                if self.get(name) is None and name.partition("/")[0] not in self.providers:
                    lines.append(f"model '{model.name}' falls back on '{name}', which is not registered")
        return lines

    def get(self, name: str) -> PublicModel | None:
        """The model of that name, if nobody has to be asked for it."""
        return self._models.get(name) or self._unregistered.get(name)

    async def resolve(self, name: str) -> PublicModel:
        """The model of that name: a registered one, ``provider/model``, a known family's, or the one that is listed.

        Raises :class:`NotFound` (naming what there is), :class:`InvalidRequest` when several providers list it.
        """
        found = self.get(name)
        if found is not None:
            return found
        if len(name) > MAX_NAME:
            raise InvalidRequest(f"the model's name is longer than {MAX_NAME} characters", param="model")
        provider_name, _, rest = name.partition("/")
        if rest and provider_name in self.providers:
            return self._remember(name, self.providers[provider_name], rest)
        if rest and (provider_name in self.absent or provider_name in KINDS):
            raise self._unservable(name, provider_name)
        for pattern, family in FAMILIES:
            if pattern.match(name) and family in self.providers:
                return self._remember(name, self.providers[family], name)
        listed = await self._listing.providers_of(name, self.providers.values())
        if len(listed) > 1:
            choices = ", ".join(f"{provider.name}/{name}" for provider in listed)
            raise InvalidRequest(f"several providers have a model '{name}'; name one: {choices}", param="model")
        if not listed:
            raise self._unknown(name)
        return self._remember(name, listed[0], name)

    def _unservable(self, name: str, provider: str) -> NotFound:
        reason = self.absent.get(provider) or unconfigured(provider)
        names = ", ".join(sorted(self._models)) or "none"
        return NotFound(
            f"model '{name}' would be the provider {provider}'s, but {reason}; registered: {names} (GET /models)",
            param="model",
            code="model_not_found",
        )

    def _unknown(self, name: str) -> SageError:
        names = ", ".join(sorted(self._models)) or "none"
        for pattern, family in FAMILIES:
            if pattern.match(name):
                return self._unservable(name, family)
        for provider in self.providers.values():
            reason = provider.missing(name)
            if reason is not None:
                return Unavailable(f"model '{name}' cannot serve: {reason}", param="model", code="model_unavailable")
        return NotFound(
            f"model '{name}' is not registered; registered: {names} (GET /models), "
            f"or provider/model with one of: {', '.join(sorted(self.providers)) or 'none'}",
            param="model",
            code="model_not_found",
        )

    def _remember(self, name: str, provider: Provider, upstream: str) -> PublicModel:
        managed = self._manage(provider, upstream, None)
        model = PublicModel(name, [Deployment(provider, upstream, provider.timeouts, managed)], registered=False)
        while len(self._unregistered) >= _REMEMBERED:
            self._unregistered.pop(next(iter(self._unregistered)))
        self._unregistered[name] = model
        return model

    def lease(self, deployment: Deployment) -> Lease:
        """``async with registry.lease(deployment) as endpoint``: ready, counted, and let go at the end."""
        return Lease(self, deployment)

    async def load(self, name: str, *, wait: bool = True) -> PublicModel:
        """Makes every engine of the model ready; without ``wait``, only sets that going."""
        model = await self.resolve(name)
        for managed in self._engines_of(model, "load"):
            if wait:
                await managed.load()
            else:
                task = asyncio.create_task(_load_quietly(managed))
                self._loading.add(task)
                task.add_done_callback(self._loading.discard)
                await asyncio.sleep(0)  # it has begun when the state is told
        return model

    async def unload(self, name: str) -> PublicModel:
        """Ends every engine of the model once the requests that run have ended."""
        model = await self.resolve(name)
        for managed in self._engines_of(model, "unload"):
            await managed.unload()
        return model

    def _engines_of(self, model: PublicModel, verb: str) -> list[ManagedModel]:
        if not model.deployments:
            raise Unavailable(f"model '{model.name}' cannot serve: {'; '.join(model.faults)}")
        engines = [d.managed for d in model.deployments if d.managed is not None]
        if not engines:
            kinds = ", ".join(sorted({d.provider.name for d in model.deployments}))
            raise Conflict(f"model '{model.name}' cannot {verb} here: it runs at {kinds}", code="not_managed")
        return engines

    async def close(self) -> None:
        """Ends all engines."""
        for managed in self._managed.values():
            await managed.close()


async def _load_quietly(managed: ManagedModel) -> None:
    """A load that nobody waits for: its failure is the model's state."""
    with contextlib.suppress(SageError):
        await managed.load()
