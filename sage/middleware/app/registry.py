"""Makes the registry of a gateway: the configured models, those that providers list, and those added at run time."""

from __future__ import annotations

from typing import TypeVar

from sage.middleware.database.installation import open_shared_files
from sage.middleware.engines.fleet import Fleet
from sage.middleware.engines.memory_budget import MemoryBudget
from sage.middleware.providers.transport import Transport
from sage.middleware.registry.factory import make_providers
from sage.middleware.registry.registry import Registry
from sage.middleware.registry.runtime_models import RuntimeModels
from sage.middleware.registry.upstream_models import ModelLists
from sage.middleware.settings.settings import Settings

R = TypeVar("R", bound=Registry)


def make_registry(kind: type[R], settings: Settings, transport: Transport) -> R:
    """A registry of that class. Nothing runs yet. Raises :class:`sage.errors.ConfigError` for a broken file."""
    providers, absent = make_providers(settings.llm, settings.data_dir)
    fleet = Fleet(settings.llm.keep_alive, MemoryBudget(settings.llm.memory_budget), transport)
    runtime_models = RuntimeModels(open_shared_files(settings.data_dir, "", settings.database))
    registry = kind(providers, absent, ModelLists(transport), fleet, runtime_models)
    for name, model in settings.llm.models.items():
        registry.register(name, model, source="config")
    registry.register_known()
    registry.restore()
    return registry
