"""Which models there are, what answers for them, and the leases under which they answer.

A *model* is a public name with one or more *deployments* (a provider and its own name for the model). Deployments of
the local engine share one :class:`~sage.middleware.providers.lifecycle.ManagedModel`, the owner of that engine's state.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.middleware.provider_settings import KINDS
from sage.middleware.providers.base import MAX_NAME, Provider, Target
from sage.middleware.providers.deployments import Deployment, Lease, PublicModel
from sage.middleware.providers.factory import unconfigured
from sage.middleware.providers.fleet import Fleet
from sage.middleware.providers.lifecycle import ManagedModel
from sage.middleware.providers.listing import Listing
from sage.middleware.settings import Deployment as DeploymentSettings
from sage.middleware.settings import Model as ModelSettings

# Families of names whose vendor is known: (pattern, provider).
FAMILIES = (
    (re.compile(r"(gpt-|chatgpt-|o\d|text-embedding-|davinci-|babbage-)"), "openai"),
    (re.compile(r"glm-"), "zhipu"),
    (re.compile(r"(command-|embed-|rerank-)"), "cohere"),
)
_REMEMBERED = 1000


class Registry:
    """The owner of all models. It lives on one event loop."""

    def __init__(
        self, providers: Mapping[str, Provider], absent: Mapping[str, str], listing: Listing, fleet: Fleet
    ) -> None:
        self.providers = dict(providers)
        self.absent = dict(absent)
        """Providers that are named but cannot serve, and why."""
        self._busy: Counter[str] = Counter()
        self._listing = listing
        self._fleet = fleet
        self._models: dict[str, PublicModel] = {}
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
            else:
                model.deployments.append(self._deploy(provider, wanted, settings))
        self._models[name] = model
        return model

    def _deploy(self, provider: Provider, wanted: DeploymentSettings, settings: ModelSettings) -> Deployment:
        target = Target(
            wanted.lora or wanted.model,
            drop_unsupported=settings.drop_unsupported,
            keep_alive=settings.keep_alive,
            pin=settings.pin,
        )
        return Deployment(
            provider,
            target,
            settings.timeouts.over(provider.timeouts),
            self._fleet.manage(provider, wanted, settings),
            weight=wanted.weight,
            priority=wanted.priority,
            max_concurrency=settings.max_concurrency,
            retries=settings.retries,
        )

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
        wanted = DeploymentSettings(provider=provider.name, model=upstream)
        managed = self._fleet.manage(provider, wanted, ModelSettings(deployments=(wanted,)))
        deployment = Deployment(provider, Target(upstream), provider.timeouts, managed)
        model = PublicModel(name, [deployment], registered=False)
        while len(self._unregistered) >= _REMEMBERED:
            self._unregistered.pop(next(iter(self._unregistered)))
        self._unregistered[name] = model
        return model

    def lease(self, deployment: Deployment) -> Lease:
        """``async with registry.lease(deployment) as endpoint``: ready, counted, and let go at the end."""
        return Lease(self._busy, deployment)

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
        await self._fleet.close()


async def _load_quietly(managed: ManagedModel) -> None:
    """A load that nobody waits for: its failure is the model's state."""
    with contextlib.suppress(SageError):
        await managed.load()
