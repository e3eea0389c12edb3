"""Every engine of one gateway: each managed model is made once, whoever asks for it, and all end together."""

from __future__ import annotations

from collections.abc import Iterable

from sage.middleware.providers.base import Provider
from sage.middleware.providers.engines import Engine
from sage.middleware.providers.lifecycle import ManagedModel
from sage.middleware.settings import Deployment, Model

Key = tuple[str, str, str | None]
"""Provider, its name for the model, LoRA adapter."""


class Fleet:
    """The managed models, by what they run. ``keep_alive``: idle seconds for those that say nothing themselves."""

    def __init__(self, keep_alive: float) -> None:
        self._keep_alive = keep_alive
        self._managed: dict[Key, ManagedModel] = {}

    def manage(self, provider: Provider, wanted: Deployment, settings: Model) -> ManagedModel | None:
        """The owner of that deployment's engine; none if it needs no engine of ours."""
        spec = provider.engine(wanted)
        if spec is None:
            return None
        key = (provider.name, wanted.model, wanted.lora)
        if key not in self._managed:
            keep_alive = settings.keep_alive or self._keep_alive
            self._managed[key] = ManagedModel(wanted.model, lambda: Engine(spec, wanted.model), keep_alive)
        return self._managed[key]

    def models(self) -> Iterable[ManagedModel]:
        return self._managed.values()

    async def close(self) -> None:
        """Ends all engines."""
        for managed in self._managed.values():
            await managed.close()
