"""Every engine of one gateway: each managed model exists once, and all end together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sage.errors import Conflict, SageError
from sage.middleware.engines.health import RestartPolicy
from sage.middleware.engines.lora import LoraAdapter, adapter_server
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import MemoryBudget
from sage.middleware.engines.process import Engine
from sage.middleware.providers.base import EngineSpec, Provider
from sage.middleware.providers.clients import make_transport
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.settings import DeploymentSettings, Model

Key = tuple[str, str, str | None]
"""Provider, its name for the model, LoRA adapter."""

# A base that died starts again by itself if its memory is still free; its adapters follow with their next request.
_WITH_ITS_BASE = RestartPolicy(restart=86400.0)


@dataclass(slots=True)
class _Member:
    model: ManagedModel
    spec: EngineSpec | None
    """``None`` for a LoRA adapter."""
    requirements: dict[str, Model] = field(default_factory=dict)
    """The settings of each public model that uses this engine, by its name."""


class Fleet:
    """The managed models, by what they run. ``keep_alive``: idle seconds for models that do not set their own.

    Public models may share an engine. It is pinned if any of them is, and has the longest of their ``keep_alive``.
    """

    def __init__(
        self, keep_alive: float, memory: MemoryBudget | None = None, transport: Transport | None = None
    ) -> None:
        """``transport`` reaches servers whose LoRA adapters are loaded over HTTP."""
        self._keep_alive = keep_alive
        self._memory = memory or MemoryBudget()
        self._transport = transport or make_transport()
        self._members: dict[Key, _Member] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._discarded: list[ManagedModel] = []
        """They end after their requests, and no longer stand for a model."""

    def manage(
        self, provider: Provider, deployment: DeploymentSettings, settings: Model, name: str | None = None
    ) -> ManagedModel | None:
        """The owner of the engine of ``deployment``, for the public model ``name``; ``None`` if it needs no engine
        here.

        Raises :class:`Conflict` when another deployment starts the same model with other arguments.
        """
        if deployment.lora is not None:
            return self._manage_adapter(provider, deployment, settings, name)
        key = (provider.name, deployment.model, None)
        member = self._members.get(key)
        if deployment.engine is None and member is not None:  # one server runs it, and another deployment configures it
            self._add_requirements(member, settings, name)
            return member.model
        spec = provider.engine(deployment)
        if spec is None:
            return None
        if member is None:
            managed = ManagedModel(
                deployment.model,
                lambda: Engine(spec, deployment.model),
                self._keep_alive,
                memory=self._memory,
                size=spec.memory,
                patience=spec.start_timeout,
                slots=spec.slots,
            )
            member = self._members[key] = _Member(managed, spec)
        elif not _same(spec, member.spec):
            raise Conflict(
                f"'{provider.name}/{deployment.model}' is started by another deployment with other arguments; one "
                "server runs a model: give both the same 'engine'",
                code="engine_conflict",
            )
        self._add_requirements(member, settings, name)
        return member.model

    def _manage_adapter(
        self, provider: Provider, deployment: DeploymentSettings, settings: Model, name: str | None
    ) -> ManagedModel | None:
        """As :meth:`manage`, for a LoRA adapter; its base comes along if that has an ``engine``."""
        server = adapter_server(provider)
        provider.engine(deployment)  # checks the adapter's name
        base = (provider.name, deployment.model, None)
        if deployment.engine is not None:
            self.manage(provider, deployment.model_copy(update={"lora": None}), settings, name)
        key = (provider.name, deployment.model, deployment.lora)
        member = self._members.get(key)
        if member is None:

            def start() -> LoraAdapter:
                base_member = self._members.get(base)  # another deployment may have added it by now
                if base_member is not None:
                    base_member.model.dependents.add(managed)
                return LoraAdapter(server, deployment, base_member.model if base_member else None, self._transport)

            managed = ManagedModel(
                f"{deployment.model}+{deployment.lora}", start, self._keep_alive, policy=_WITH_ITS_BASE
            )
            member = self._members[key] = _Member(managed, None)
        self._add_requirements(member, settings, name)
        return member.model

    def _add_requirements(self, member: _Member, settings: Model, name: str | None) -> None:
        if name is not None:
            member.requirements[name] = settings
            self._adjust(member)

    def forget(self, name: str) -> list[ManagedModel]:
        """The public model ``name`` was removed or will be made again; returns the engines it used, for :meth:`retire`.

        They stay as they are until then: one that is pinned again must not be evicted in between.
        """
        return [member.model for member in self._members.values() if member.requirements.pop(name, None) is not None]

    def retire(self, models: Iterable[ManagedModel]) -> None:
        """Adjusts them to the public models that still use them; an engine without one unloads after its requests."""
        members = {member.model: member for member in self._members.values()}
        for model in models:
            self._adjust(members[model])
            if not members[model].requirements and model.state is not ModelLifeState.UNLOADED:
                task = asyncio.create_task(self._unload_unused(members[model]), name=f"retire {model.name}")
                self._unloading.add(task)
                task.add_done_callback(self._unloading.discard)

    def discard(self, provider: str, model: str) -> None:
        """The provider's model is no longer there, or is another now: the next use of its name starts a new engine."""
        member = self._members.pop((provider, model, None), None)
        if member is None:
            return
        member.requirements.clear()
        self._discarded = [gone for gone in self._discarded if gone.state is not ModelLifeState.UNLOADED]
        if member.model.state is not ModelLifeState.UNLOADED:
            self._discarded.append(member.model)
            task = asyncio.create_task(self._unload_unused(member), name=f"discard {model}")
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload_unused(self, member: _Member) -> None:
        model = member.model
        if model.state is ModelLifeState.LOADING:
            with contextlib.suppress(SageError):
                await model.load()  # joins the current load: callers that wait for it get their answers
        if member.requirements:
            return  # a public model uses it again
        if model.state is ModelLifeState.FAILED:
            await model.unload()
        else:
            model.make_room()

    def describe_memory(self) -> dict[str, Any]:
        """Who takes how much of the memory budget; sizes are in bytes."""
        memory = self._memory
        engines = [
            {
                "provider": provider,
                "model": model,
                "memory": size,
                "state": str(member.model.state),
                "pin": member.model.pinned,
                "in_flight": member.model.in_flight,
            }
            for (provider, model, _), member in self._members.items()
            if (size := memory.reserved_for(member.model))
        ]
        return {"budget": memory.budget, "used": memory.reserved, "waiting": memory.waiting, "engines": engines}

    def models(self) -> Iterable[ManagedModel]:
        return [member.model for member in self._members.values()]

    async def close(self) -> None:
        """Ends all engines."""
        managed = [*(member.model for member in self._members.values()), *self._discarded]
        await asyncio.gather(*(model.close() for model in managed))
        if self._unloading:
            await asyncio.wait(self._unloading)

    def _adjust(self, member: _Member) -> None:
        models = member.requirements.values()
        keep_alive = max((model.keep_alive or self._keep_alive for model in models), default=self._keep_alive)
        member.model.adjust(keep_alive, any(model.pin for model in models))


def _same(spec: EngineSpec, before: EngineSpec | None) -> bool:
    """Whether both start the same engine. Their estimates of memory may differ: a file that is here tells more."""
    return before is not None and replace(spec, memory=before.memory) == before
