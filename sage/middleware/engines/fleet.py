"""Every engine of one gateway: each managed model is made once, whoever asks for it, and all end together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sage.errors import Conflict, SageError
from sage.middleware.engines.health import RestartPolicy
from sage.middleware.engines.lora import LoraAdapter, adapter_server
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import MemoryBudget
from sage.middleware.engines.process import Engine
from sage.middleware.providers.base import EngineSpec, Provider
from sage.middleware.providers.transport import HttpTransport, Transport
from sage.middleware.settings.settings import DeploymentSettings, Model

Key = tuple[str, str, str | None]
"""Provider, its name for the model, LoRA adapter."""

# A base that died starts again by itself, if its room is still free; its adapters follow with their next request.
_WITH_ITS_BASE = RestartPolicy(revive=86400.0)


@dataclass(slots=True)
class _Member:
    model: ManagedModel
    spec: EngineSpec | None
    """None for a LoRA adapter."""
    wishes: dict[str, Model] = field(default_factory=dict)
    """How each public model that stands on this engine wants it to be kept."""


class Fleet:
    """The managed models, by what they run. ``keep_alive``: idle seconds for those that say nothing themselves.

    Public models may share an engine. It is pinned if any of them says so, and idle for as long as the most patient
    of them wants.
    """

    def __init__(
        self, keep_alive: float, memory: MemoryBudget | None = None, transport: Transport | None = None
    ) -> None:
        """``transport`` reaches servers whose LoRA adapters are loaded over HTTP."""
        self._keep_alive = keep_alive
        self._memory = memory or MemoryBudget()
        self._transport = transport or HttpTransport()
        self._members: dict[Key, _Member] = {}
        self._unloading: set[asyncio.Task[None]] = set()

    def manage(
        self, provider: Provider, wanted: DeploymentSettings, settings: Model, name: str | None = None
    ) -> ManagedModel | None:
        """The owner of that deployment's engine, for the public model ``name``; none if it needs no engine of ours.

        Raises :class:`Conflict` when another deployment starts the same model with other arguments.
        """
        if wanted.lora is not None:
            return self._manage_adapter(provider, wanted, settings, name)
        key = (provider.name, wanted.model, None)
        member = self._members.get(key)
        if wanted.engine is None and member is not None:  # one server runs a model, whoever brought its engine
            self._wish(member, settings, name)
            return member.model
        spec = provider.engine(wanted)
        if spec is None:
            return None
        if member is None:
            managed = ManagedModel(
                wanted.model,
                lambda: Engine(spec, wanted.model),
                self._keep_alive,
                memory=self._memory,
                size=spec.memory,
                patience=spec.start_timeout,
            )
            member = self._members[key] = _Member(managed, spec)
        elif not _same(spec, member.spec):
            raise Conflict(
                f"'{provider.name}/{wanted.model}' is started by another deployment with other arguments; one server "
                "runs a model: give both the same 'engine'",
                code="engine_conflict",
            )
        self._wish(member, settings, name)
        return member.model

    def _manage_adapter(
        self, provider: Provider, wanted: DeploymentSettings, settings: Model, name: str | None
    ) -> ManagedModel | None:
        """As :meth:`manage`, for a LoRA adapter, which takes its base along where that has an ``engine``."""
        server = adapter_server(provider)
        provider.engine(wanted)  # which knows what can be an adapter's name
        base = (provider.name, wanted.model, None)
        if wanted.engine is not None:
            self.manage(provider, wanted.model_copy(update={"lora": None}), settings, name)
        key = (provider.name, wanted.model, wanted.lora)
        member = self._members.get(key)
        if member is None:

            def start() -> LoraAdapter:
                under = self._members.get(base)  # another deployment may have brought it by now
                if under is not None:
                    under.model.dependents.add(managed)
                return LoraAdapter(server, wanted, under.model if under is not None else None, self._transport)

            managed = ManagedModel(f"{wanted.model}+{wanted.lora}", start, self._keep_alive, policy=_WITH_ITS_BASE)
            member = self._members[key] = _Member(managed, None)
        self._wish(member, settings, name)
        return member.model

    def _wish(self, member: _Member, settings: Model, name: str | None) -> None:
        if name is not None:
            member.wishes[name] = settings
            self._adjust(member)

    def forget(self, name: str) -> list[ManagedModel]:
        """The public model ``name`` is gone or will be made anew; the engines it stood on, for :meth:`retire`.

        They are kept as before until then: one that is pinned again must not be evicted in between.
        """
        return [member.model for member in self._members.values() if member.wishes.pop(name, None) is not None]

    def retire(self, models: Iterable[ManagedModel]) -> None:
        """Keeps them as those who still stand on them want; one that nobody does unloads after its requests."""
        members = {member.model: member for member in self._members.values()}
        for model in models:
            self._adjust(members[model])
            if not members[model].wishes and model.state is not ModelLifeState.UNLOADED:
                task = asyncio.create_task(self._leave(members[model]), name=f"retire {model.name}")
                self._unloading.add(task)
                task.add_done_callback(self._unloading.discard)

    async def _leave(self, member: _Member) -> None:
        model = member.model
        if model.state is ModelLifeState.LOADING:
            with contextlib.suppress(SageError):
                await model.load()  # joins the load that runs: whoever waits for it is answered
        if member.wishes:
            return  # somebody stands on it again
        if model.state is ModelLifeState.FAILED:
            await model.unload()
        else:
            model.make_room()

    def models(self) -> Iterable[ManagedModel]:
        return [member.model for member in self._members.values()]

    async def close(self) -> None:
        """Ends all engines."""
        await asyncio.gather(*(member.model.close() for member in self._members.values()))
        if self._unloading:
            await asyncio.wait(self._unloading)

    def _adjust(self, member: _Member) -> None:
        given = [wish.keep_alive or self._keep_alive for wish in member.wishes.values()]
        pinned = any(wish.pin for wish in member.wishes.values())
        member.model.adjust(max(given, default=self._keep_alive), pinned)


def _same(spec: EngineSpec, before: EngineSpec | None) -> bool:
    """Whether it is started as before. What it takes is reckoned anew each time, once its file is here from more."""
    return before is not None and replace(spec, memory=before.memory) == before
