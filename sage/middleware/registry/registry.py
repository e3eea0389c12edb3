"""The registry: which models there are, which deployments answer for them, and how they are loaded and unloaded.

A *model* is a public name with one or more *deployments* (a provider and its own name for the model). Deployments of
the local engine share one :class:`~sage.middleware.engines.managed_model.ManagedModel`, the owner of its state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeVar, cast

from sage.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    SageError,
    Unavailable,
    UpstreamFailed,
)
from sage.middleware.dispatch.api_keys import ProviderQuota
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.engines.fleet import Fleet
from sage.middleware.hub.sources import is_source
from sage.middleware.providers.base import MAX_NAME, Provider, PullProgress, UpstreamModel
from sage.middleware.providers.local.hub_choice import check_file_model
from sage.middleware.registry.factory import unconfigured
from sage.middleware.registry.hosted_models import HostedModels
from sage.middleware.registry.pulled_models import PulledModels, PulledOnnx
from sage.middleware.registry.runtime_models import (
    RuntimeModels,
    changed_meanwhile,
    check_name,
    parse_registration,
    registration,
    revision,
)
from sage.middleware.registry.upstream_models import ModelLists
from sage.middleware.settings.kinds import KINDS, RESERVED_PREFIXES, vendors_of
from sage.middleware.settings.limits import SubjectLimits
from sage.middleware.settings.settings import DeploymentSettings
from sage.middleware.settings.settings import Model as ModelSettings

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_REMEMBERED = 1000
_WINS = {
    "config": "is in the configuration file, which wins",
    "provider": "is a model that its provider knows of itself, which wins",
    "file": "is a file that was pulled or added, which wins: remove it first",
    "program": "was registered by the program that runs the gateway, which wins",
}
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts to preload a model at a server that may still be starting."""


class RegistrationChange(NamedTuple):
    """A run-time model that was changed, and what it was registered with before and is now."""

    model: PublicModel
    before: ModelSettings
    after: ModelSettings


class Registry:
    """The owner of all models. It belongs to one event loop."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        absent: Mapping[str, str],
        model_lists: ModelLists,
        fleet: Fleet,
        runtime_models: RuntimeModels | None = None,
    ) -> None:
        """``runtime_models`` stores the models that are added at run time; without it they end with the process."""
        self.providers = dict(providers)
        self.absent = dict(absent)
        """The configured providers that cannot serve, each with the reason."""
        self._quotas: dict[str, ProviderQuota] = {}
        self._model_lists = model_lists
        self._fleet = fleet
        self._models: dict[str, PublicModel] = {}
        self._unregistered: dict[str, PublicModel] = {}
        self._own: dict[str, PublicModel] = {}
        """The models that run in this process."""
        self._listed_own: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hosted_models = HostedModels()
        self._runtime_models = runtime_models
        self._stored: dict[str, ModelSettings] = {}
        """The run-time models as they were read last, with this gateway's own changes since."""
        self._stored_version = 0
        self.changes = 0
        """Counts how often a model was registered or removed."""
        self._changes = asyncio.Lock()
        self.pulled_onnx: PulledOnnx | None = None
        """Answers for the models of a hub that run in this process; ``None`` means that there are none."""
        self.pulled = PulledModels(self, self.providers.values())
        """The models of files that were pulled or added beside the configuration."""

    def register(self, name: str, settings: ModelSettings, *, source: str = "program") -> PublicModel:
        """Adds or replaces the model of that name. A deployment whose provider cannot serve becomes one of its faults.

        ``source`` is where the model comes from: ``config``, ``provider``, ``file``, ``program`` or ``runtime``.
        """
        unused = self._fleet.forget(name)
        model = PublicModel(name, [], settings.fallbacks, source=source, preload=settings.preload, pin=settings.pin)
        if settings.limits is not None:
            model.limits = (SubjectLimits(f"model:{name}", settings.limits),)
        model.spending = settings.budget
        for wanted in settings.deployments:
            provider = self.providers.get(wanted.provider)
            if provider is None:
                reason = self.absent.get(wanted.provider) or unconfigured(wanted.provider)
                model.faults.append(f"provider '{wanted.provider}' cannot serve: {reason}")
                continue
            try:
                model.deployments.append(self._deploy(name, provider, wanted, settings))
            except SageError as exc:
                if source == "config" and not isinstance(exc, Conflict):
                    raise  # a fault in the file ends the start
                model.faults.append(exc.message)
        self._models[name] = model
        self.changes += 1
        self._fleet.retire(unused)
        return model

    def _deploy(self, name: str, provider: Provider, wanted: DeploymentSettings, settings: ModelSettings) -> Deployment:
        target = UpstreamModel(
            wanted.lora or wanted.model,
            drop_unsupported=settings.drop_unsupported,
            keep_alive=settings.keep_alive,
            pin=settings.pin,
        )
        return Deployment(
            provider,
            target,
            settings.timeouts.over(provider.timeouts),
            self._fleet.manage(provider, wanted, settings, name),
            self._quota_of(provider),
            weight=wanted.weight,
            priority=wanted.priority,
            max_concurrency=settings.max_concurrency,
            retries=settings.retries,
            price=wanted.price,
        )

    def _quota_of(self, provider: Provider) -> ProviderQuota:
        """The quota that all deployments of ``provider`` share."""
        quota = self._quotas.get(provider.name)
        if quota is None:
            quota = self._quotas[provider.name] = ProviderQuota(provider.max_concurrency, len(provider.endpoints))
        return quota

    def register_known(self) -> None:
        """Registers every model that a provider knows of itself under its own name, unless that name is taken."""
        for provider in self.providers.values():
            for name in provider.known_models():
                if name not in self._models and name not in _file_names(provider):
                    wanted = DeploymentSettings(provider=provider.name, model=name)
                    self.register(name, ModelSettings(deployments=(wanted,)), source="provider")
        self.pulled.refresh()

    def register_own(self, name: str, provider: Provider, *, listed: bool) -> None:
        """Adds a model that runs in this process. A registered one of the same name goes before it. Only ``listed``
        ones are among :meth:`models`, and only where they can serve."""
        deployment = Deployment(provider, UpstreamModel(name), provider.timeouts, None, ProviderQuota(None, 1))
        self._own[name] = PublicModel(name, [deployment], source="provider")
        if listed and provider.missing(name) is None:
            self._listed_own.add(name)

    def restore(self) -> None:
        """Registers the stored run-time models; raises :class:`sage.errors.ConfigError` for a broken file."""
        stored = self._read_stored()
        for name, settings in stored.items():
            winner = self._models.get(name)
            try:
                check_name(name, {**self.providers, **self.absent})
            except InvalidRequest as exc:  # a provider of that name was added since, or the file was edited
                _log.warning("a model registered at run time is left out: %s", exc.message)
                continue
            if winner is None:
                self.register(name, settings, source="runtime")
            else:
                winner.shadows = True
                _log.warning(
                    "model '%s' %s; the one of that name registered at run time waits", name, _WINS[winner.source]
                )

    def _read_stored(self) -> dict[str, ModelSettings]:
        if self._runtime_models is not None:
            self._stored_version = self._runtime_models.version()  # first: what changes in between is read again
            self._stored = self._runtime_models.read()
        return self._stored

    async def follow_stored(self, seconds: float = 1.0) -> None:
        """Takes over what other gateways register and remove, until cancelled; looks every ``seconds``."""
        while self._runtime_models is not None:
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(self._runtime_models.version) != self._stored_version:
                    async with self._changes:
                        before = self._stored
                        self.take_over(before, await asyncio.to_thread(self._read_stored))
            except SageError as exc:
                _log.warning("the models that other gateways registered cannot be read: %s", exc.message)

    def take_over(self, before: Mapping[str, ModelSettings], stored: Mapping[str, ModelSettings]) -> None:
        """Registers what was added to the stored run-time models since ``before``, and drops what was taken away."""
        for name, settings in before.items():
            if stored.get(name) != settings and self._is_runtime(name):
                self._fleet.retire(self._fleet.forget(name))
                del self._models[name]
                self.changes += 1
        for name, settings in stored.items():
            with contextlib.suppress(InvalidRequest):  # a name that has become a provider's
                check_name(name, {**self.providers, **self.absent})
                if name not in self._models:
                    self.register(name, settings, source="runtime")

    def stored_models(self) -> Mapping[str, ModelSettings]:
        """The models registered at run time that serve, by name."""
        return {name: settings for name, settings in self._stored.items() if self._is_runtime(name)}

    async def reconfigure(
        self,
        before: Mapping[str, ModelSettings],
        models: Mapping[str, ModelSettings],
        providers: Mapping[str, Provider | None],
        absent: Mapping[str, str],
    ) -> None:
        """Takes over another configuration: its ``models`` in place of those ``before``, and the ``providers`` that
        differ (``None`` for one that is gone, or cannot serve: then ``absent`` says why).

        Running requests go on with what they began with. Nothing of it may be wrong: it was tried in another registry.
        """
        async with self._changes:
            affected = self._replace_providers(providers, absent)
            for name in [*before, *affected]:
                model = self._models.get(name)
                if (
                    model is not None
                    and model.source != "file"
                    and (name in affected or before[name] != models.get(name))
                ):
                    del self._models[name]
                    self._fleet.retire(self._fleet.forget(name))
            for name, settings in models.items():
                if name not in self._models or self._models[name].source != "config":
                    self.register(name, settings, source="config")
            for name, settings in self._stored.items():
                with contextlib.suppress(InvalidRequest):  # a name that has become a provider's
                    check_name(name, {**self.providers, **self.absent})
                    if name not in self._models:
                        self.register(name, settings, source="runtime")
                    self._models[name].shadows = self._models[name].source != "runtime"
            self.register_known()
            self.changes += 1

    def _replace_providers(self, providers: Mapping[str, Provider | None], absent: Mapping[str, str]) -> set[str]:
        """Puts ``providers`` in; returns the names of the models that have a deployment there, or lacked it."""
        for name, provider in providers.items():
            old = self.providers.pop(name, None)
            if old is not None:
                self._model_lists.forget(old)
            self._quotas.pop(name, None)
            if provider is not None:
                self.providers[name] = provider
        self.absent = dict(absent)
        self._unregistered = {
            name: model
            for name, model in self._unregistered.items()
            if all(deployment.provider.name not in providers for deployment in model.deployments)
        }
        return {
            name
            for name, model in self._models.items()
            if providers
            and (model.faults or any(deployment.provider.name in providers for deployment in model.deployments))
        }

    def _is_runtime(self, name: str) -> bool:
        return name in self._models and self._models[name].source == "runtime"

    def forget(self, provider: Provider, name: str) -> None:
        """Drops the model of a file, and its engine, which ends after its requests."""
        model = self._models.get(name)
        if model is not None and model.source == "file":
            self._models.pop(name)
            self.changes += 1
            self._fleet.forget(name)
        self._unregistered.pop(f"{provider.name}/{name}", None)
        self._fleet.discard(provider.name, name)

    def check_free(self, name: str) -> None:
        """Raises :class:`InvalidRequest` or :class:`Conflict` if no model of a file may have that name."""
        check_file_model(name)
        taken = self._models.get(name)
        if taken is not None and taken.source != "file":
            raise Conflict(f"model '{name}' {_WINS[taken.source]}", param="name", code="model_configured")

    async def add(self, name: str, body: Any) -> tuple[PublicModel, bool, ModelSettings | None]:
        """Registers a model at run time and stores it on disk; tells whether it is new, and what was stored before.

        Raises :class:`InvalidRequest` for what a request must not set, :class:`Conflict` for a name that is taken.
        """
        check_name(name, {**self.providers, **self.absent})
        settings = parse_registration(body, self.providers, self.absent)
        return await self._finish(self._add(name, settings))

    async def _add(self, name: str, settings: ModelSettings) -> tuple[PublicModel, bool, ModelSettings | None]:
        before = None
        async with self._changes:
            new = self._runtime_model(name) is None
            if self._runtime_models is not None:
                before = await asyncio.to_thread(self._runtime_models.put, name, settings)
            model = self._take(name, settings)
        return model, new, before

    def _take(self, name: str, settings: ModelSettings) -> PublicModel:
        """Registers a run-time model that is stored."""
        self._stored = {**self._stored, name: settings}
        model = self.register(name, settings, source="runtime")
        if model.preload:
            self._load_soon(model)
        return model

    async def change(
        self,
        name: str,
        fields: Mapping[str, Any],
        may_have: Callable[[Mapping[str, Any]], None],
        expected: str | None = None,
    ) -> RegistrationChange:
        """Puts ``fields`` into the registration of a run-time model, all of them or none; ``None`` takes one out.

        ``may_have`` is called with the whole registration as it will be, and raises to refuse it. Raises
        :class:`NotFound`, :class:`InvalidRequest`, and :class:`Conflict` for a model that was not registered at run
        time, or whose revision is not the ``expected`` one any more.
        """
        return await self._finish(self._change(name, fields, may_have, expected))

    async def _change(
        self,
        name: str,
        fields: Mapping[str, Any],
        may_have: Callable[[Mapping[str, Any]], None],
        expected: str | None,
    ) -> RegistrationChange:
        async with self._changes:
            before = self._stored.get(name)
            if self._runtime_model(name) is None or before is None:
                raise self._unknown(name)
            if expected is not None and expected != revision(before):
                raise changed_meanwhile(name)
            body = {key: value for key, value in {**registration(before), **fields}.items() if value is not None}
            may_have(body)
            after = parse_registration(body, self.providers, self.absent)
            if self._runtime_models is not None and after != before:
                await asyncio.to_thread(self._runtime_models.replace, name, before, after)
            model = self._models[name] if after == before else self._take(name, after)
        return RegistrationChange(model, before, after)

    def stored(self, name: str) -> ModelSettings | None:
        """What the run-time model of that name was registered with; ``None`` where the name is not one's."""
        return self._stored.get(name) if self._is_runtime(name) else None

    async def remove(self, name: str) -> ModelSettings | None:
        """Removes a model that was registered at run time; engines that no other model uses drain and unload. Returns
        what was stored of it.

        Raises :class:`NotFound`, or :class:`Conflict` for a model that was not registered at run time.
        """
        return await self._finish(self._remove(name))

    async def _remove(self, name: str) -> ModelSettings | None:
        before = None
        async with self._changes:
            if await self.pulled.remove(name):
                return None
            if is_source(name) and self.pulled_onnx is not None:
                if not await asyncio.to_thread(self.pulled_onnx.remove, name):
                    raise self._unknown(name)
                self.changes += 1
                return None
            if self._runtime_model(name) is None:
                raise self._unknown(name)
            if self._runtime_models is not None:
                before = await asyncio.to_thread(self._runtime_models.drop, name)
            self._stored = {known: each for known, each in self._stored.items() if known != name}
            self._models.pop(name, None)
            self.changes += 1
            self._fleet.retire(self._fleet.forget(name))
        return before

    def _runtime_model(self, name: str) -> PublicModel | None:
        """The run-time model of that name; raises :class:`Conflict` if the name belongs to another source."""
        model = self._models.get(name)
        if model is not None and model.source != "runtime":
            hint = "; change it there, then POST /settings/reload" if model.source == "config" else ""
            raise Conflict(f"model '{name}' {_WINS[model.source]}{hint}", param="name", code="model_configured")
        return model

    async def _finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Runs ``change`` to its end even if the caller leaves, so that disk and memory stay equal."""
        return await asyncio.shield(self._start_task(change))

    def models(self) -> Iterable[PublicModel]:
        """The registered models and those that run in this process, by name."""
        self.pulled.refresh()
        models = {name: self._own[name] for name in self._listed_own}
        for name in self.pulled_onnx.known_models() if self.pulled_onnx is not None else ():
            with contextlib.suppress(NotFound):  # removed meanwhile
                models[name] = self._from_hub(name)
        models |= self._models
        return (models[name] for name in sorted(models))

    def known(self) -> Iterable[PublicModel]:
        """Every model that requests may have met, also those that are not registered."""
        return chain(self._models.values(), self._unregistered.values())

    def get(self, name: str) -> PublicModel | None:
        """The model of that name, if it is known without asking an upstream."""
        return self._models.get(name) or self._unregistered.get(name) or self._own.get(name)

    async def resolve(self, name: str) -> PublicModel:
        """The model of that name: registered, ``provider/model``, a vendor's own, or listed by one provider.

        Raises :class:`NotFound` (naming what there is), :class:`InvalidRequest` when several providers list it.
        """
        model = self.get(name)
        if model is not None:
            return model
        self.pulled.refresh()
        model = self.get(name)
        if model is not None:
            return model
        if len(name) > MAX_NAME:
            raise InvalidRequest(f"the model's name is longer than {MAX_NAME} characters", param="model")
        if self.pulled_onnx is not None and is_source(name):
            return self._from_hub(name)
        provider_name, _, rest = name.partition("/")
        if rest and provider_name in self.providers:
            return self._remember(name, self.providers[provider_name], rest)
        if rest and (provider_name in self.absent or provider_name in RESERVED_PREFIXES):
            raise self._unservable(name, provider_name)
        for vendor in vendors_of(name):
            if vendor in self.providers:
                return self._remember(name, self.providers[vendor], name)
        listed = await self._model_lists.providers_of(name, self.providers.values())
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
        prefix, slash, _ = name.partition("/")
        for vendor in (prefix,) if slash and prefix in KINDS else vendors_of(name):
            if vendor not in self.providers:
                return self._unservable(name, vendor)
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
        deployment = Deployment(provider, UpstreamModel(upstream), provider.timeouts, managed, self._quota_of(provider))
        model = PublicModel(name, [deployment], registered=False, source="provider")
        while len(self._unregistered) >= _MAX_REMEMBERED:
            self._unregistered.pop(next(iter(self._unregistered)))
        self._unregistered[name] = model
        return model

    def _from_hub(self, name: str) -> PublicModel:
        """A model that was pulled in ONNX's format. Raises :class:`NotFound` if it was not."""
        assert self.pulled_onnx is not None
        reason = self.pulled_onnx.missing(name)
        if reason is not None:
            raise NotFound(reason, param="model", code="model_not_found")
        provider = cast(Provider, self.pulled_onnx)
        deployment = Deployment(provider, UpstreamModel(name), provider.timeouts, None, ProviderQuota(None, 1))
        return PublicModel(name, [deployment], registered=False, source="file")

    async def load(self, name: str, *, wait: bool = True) -> PublicModel:
        """Returns once every engine of the model is ready; without ``wait``, once the loads have started."""
        model = await self.resolve(name)
        deployments = self._loadable(model, "load")
        if wait:
            for deployment in deployments:
                await self._load(deployment)
        else:
            self._load_soon(model)
            await asyncio.sleep(0)  # so that the state in the answer is "loading"
        return model

    async def unload(self, name: str) -> PublicModel:
        """Ends every engine of the model after its running requests."""
        model = await self.resolve(name)
        for deployment in self._loadable(model, "unload"):
            if deployment.managed is not None:
                await deployment.managed.unload()
            elif deployment.provider.host is not None:
                await self._hosted_models.unload(deployment, deployment.provider.host)
        return model

    def describe_memory(self) -> dict[str, Any]:
        """As :meth:`Fleet.describe_memory`."""
        return self._fleet.describe_memory()

    async def load_progress(self, model: PublicModel) -> dict[str, Any] | None:
        """Of the engine of ``model`` that loads now; ``None`` means that none does."""
        loading = (each.managed for each in model.deployments if each.state == "loading" and each.managed is not None)
        managed = next(loading, None)
        return None if managed is None else await managed.load_progress()

    def preload(self) -> None:
        """Starts to load all models with ``preload``; a failure is logged, and shown as the model's state."""
        for model in self.models():
            if model.preload:
                self._load_soon(model)

    async def refresh(self, models: Iterable[PublicModel]) -> None:
        """Asks servers that load their models themselves what they have loaded, for :meth:`PublicModel.describe`."""
        await self._hosted_models.refresh([deployment for model in models for deployment in model.deployments])

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Pulls the model to the server that runs it; raises :class:`Conflict` unless there is exactly one."""
        model = await self.resolve(name)
        hosts = {d.name: (d, d.provider.host) for d in model.deployments if d.provider.host is not None}
        if len(hosts) != 1:
            names = ", ".join(sorted(hosts)) or "none of its providers fetches models"
            raise Conflict(f"model '{name}' cannot be pulled as one: {names}; name provider/model", code="not_hosted")
        [(deployment, host)] = hosts.values()
        steps = host.pull(deployment.model)
        try:
            async for step in steps:
                yield step
        finally:
            await _closed(steps)
            self._model_lists.forget(deployment.provider)

    async def _load(self, deployment: Deployment) -> None:
        if deployment.managed is not None:
            await deployment.managed.load()
        elif deployment.provider.host is not None:
            await self._hosted_models.load(deployment, deployment.provider.host)

    def _load_soon(self, model: PublicModel) -> None:
        for deployment in model.deployments:
            if deployment.managed is not None or deployment.provider.host is not None:
                self._start_task(self._load_quietly(deployment))

    async def _load_quietly(self, deployment: Deployment) -> None:
        """A load that no caller waits for: a failure becomes the model's state. A server that is down is retried."""
        for pause in (*_PAUSES, None):
            try:
                return await self._load(deployment)
            except (UpstreamFailed, DeadlineExceeded) as exc:
                _log.warning("'%s' could not be loaded: %s", deployment.name, exc.message)
                if pause is None or deployment.managed is not None:
                    return
                await asyncio.sleep(pause)
            except SageError as exc:
                if deployment.managed is None:  # a managed model has logged it itself
                    _log.warning("'%s' could not be loaded: %s", deployment.name, exc.message)
                return

    def _start_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _loadable(self, model: PublicModel, verb: str) -> list[Deployment]:
        if not model.deployments:
            raise Unavailable(f"model '{model.name}' cannot serve: {'; '.join(model.faults)}")
        loadable = [d for d in model.deployments if d.managed is not None or d.provider.host is not None]
        if not loadable:
            kinds = ", ".join(sorted({d.provider.name for d in model.deployments}))
            raise Conflict(f"model '{model.name}' cannot {verb} here: it runs at {kinds}", code="not_managed")
        return loadable

    async def close(self) -> None:
        """Ends all engines."""
        for task in list(self._tasks):
            task.cancel()
        await self._fleet.close()
        if self._runtime_models is not None:
            await asyncio.to_thread(self._runtime_models.close)


def _file_names(provider: Provider) -> frozenset[str]:
    return provider.model_files.names() if provider.model_files is not None else frozenset()


async def _closed(steps: object) -> None:
    """Closes ``steps`` if it is a generator, which may be in the middle of its work."""
    if isinstance(steps, AsyncGenerator):
        await steps.aclose()
