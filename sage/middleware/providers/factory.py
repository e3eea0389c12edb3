"""Makes the providers that are configured, and says of the others why they cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sage.middleware.providers.base import Provider
from sage.middleware.providers.local import LocalEngineProvider
from sage.middleware.providers.ollama import OllamaProvider
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vllm import VllmProvider
from sage.middleware.settings import KINDS, Llm, LocalProvider, RemoteProvider

_NEEDS = {
    "openai": "set OPENAI_API_KEY, or its api_key or base_url",
    "vllm": "set VLLM_BASE_URL, or its base_url",
    "ollama": "set OLLAMA_HOST, or its base_url",
}


def _kinds() -> dict[str, Callable[[str, RemoteProvider], Provider]]:
    return {"openai": OpenAIProvider, "vllm": VllmProvider, "ollama": OllamaProvider}


def make_providers(settings: Llm, data_dir: Path) -> tuple[dict[str, Provider], dict[str, str]]:
    """``(providers, absent)``: those that can be called, by name, and the reason for each that cannot."""
    kinds = _kinds()
    providers: dict[str, Provider] = {}
    absent: dict[str, str] = {}
    for name, section in settings.providers.items():
        if isinstance(section, LocalProvider):
            providers[name] = LocalEngineProvider(name, section, data_dir)
        elif section.kind not in kinds:
            absent[name] = f"providers of kind '{section.kind}' are not part of this version"
        elif not section.configured or (section.kind != "openai" and section.base_url is None):
            absent[name] = f"it is not configured: {_NEEDS[section.kind]} (llm.providers.{name})"
        else:
            providers[name] = kinds[section.kind](name, section)
    return providers, absent


def add_provider(providers: dict[str, Provider], kind: str, base_url: str) -> None:
    """Adds the provider that is named after its ``kind``, at ``base_url``, without a key."""
    providers[kind] = _kinds()[kind](kind, RemoteProvider.model_validate({"kind": kind, "base_url": base_url}))


def unconfigured(name: str) -> str:
    """What to do about a provider that is named but not in the configuration."""
    if name in KINDS:
        return f"it is not configured: {_NEEDS.get(name, f'set llm.providers.{name}')}"
    return "it is not configured"
