"""Makes the configured providers, and gives the reason for each that cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from sage.middleware.providers.base import Provider
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.providers import ProviderCommon
from sage.middleware.settings.settings import Llm
from sage.middleware.settings.vendors.kind import ProviderKind


def make_providers(settings: Llm, data_dir: Path) -> tuple[dict[str, Provider], dict[str, str]]:
    """``(providers, absent)``: the providers that can be called, by name, and the reason for each that cannot."""
    providers: dict[str, Provider] = {}
    absent: dict[str, str] = {}
    managed = {d.provider for model in settings.models.values() for d in model.deployments if d.engine is not None}
    for name, section in settings.providers.items():
        kind = KINDS[section.kind]
        if kind.is_configured(section) or (kind.starts_engines and name in managed):
            providers[name] = make_provider(name, section, data_dir)
        else:
            absent[name] = f"it is not configured: {kind.what_to_set()} (llm.providers.{name})"
    return providers, absent


def make_provider(name: str, section: ProviderCommon, data_dir: Path) -> Provider:
    """The provider that ``section`` configures. ``data_dir`` is where models' files lie."""
    kind = KINDS[section.kind]
    adapter = adapter_of(kind)
    return adapter(name, section, data_dir) if kind.keeps_files else adapter(name, section)


def adapter_of(kind: ProviderKind) -> Callable[..., Provider]:
    """The class of the kind's adapter, imported now: what no provider needs is not loaded."""
    module, _, name = kind.adapter.partition(":")
    adapter: Callable[..., Provider] = getattr(import_module(f"sage.middleware.providers.{module}"), name)
    return adapter


def unconfigured(name: str) -> str:
    """What to do about a provider that is named but not in the configuration."""
    return f"it is not configured: {KINDS[name].what_to_set()}" if name in KINDS else "it is not configured"
