"""Makes the providers that are configured, and says of the others why they cannot serve."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.providers.base import Provider
from sage.middleware.providers.cohere.provider import CohereProvider
from sage.middleware.providers.local.provider import LocalEngineProvider
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vllm.provider import VllmProvider
from sage.middleware.providers.zhipu import ZhipuProvider
from sage.middleware.settings.providers import (
    KINDS,
    CohereSettings,
    LocalProvider,
    OllamaSettings,
    OpenAISettings,
    ProviderSettings,
    VllmSettings,
    ZhipuSettings,
)
from sage.middleware.settings.settings import Llm

_NEEDS = {
    "openai": "set OPENAI_API_KEY, or its api_key or base_url",
    "vllm": "set VLLM_BASE_URL, or its base_url, or give a deployment an 'engine'",
    "ollama": "set OLLAMA_HOST, or its base_url",
    "zhipu": "set ZHIPUAI_API_KEY, or its api_key",
    "cohere": "set CO_API_KEY, or its api_key",
}


def make_providers(settings: Llm, data_dir: Path) -> tuple[dict[str, Provider], dict[str, str]]:
    """``(providers, absent)``: those that can be called, by name, and the reason for each that cannot."""
    providers: dict[str, Provider] = {}
    absent: dict[str, str] = {}
    managed = {d.provider for model in settings.models.values() for d in model.deployments if d.engine is not None}
    for name, section in settings.providers.items():
        if isinstance(section, LocalProvider):
            providers[name] = LocalEngineProvider(name, section, data_dir)
        elif _can_be_called(section, name in managed):
            providers[name] = make_provider(name, section)
        else:
            absent[name] = f"it is not configured: {_NEEDS[section.kind]} (llm.providers.{name})"
    return providers, absent


def _can_be_called(section: ProviderSettings, managed: bool) -> bool:
    if isinstance(section, VllmSettings | OllamaSettings):
        return section.base_url is not None or (managed and section.kind == "vllm")
    return section.configured


def make_provider(name: str, section: ProviderSettings) -> Provider:
    """The adapter of a vendor that is reached over HTTP."""
    match section:
        case OpenAISettings():
            return OpenAIProvider(name, section)
        case VllmSettings():
            return VllmProvider(name, section)
        case OllamaSettings():
            return OllamaProvider(name, section)
        case ZhipuSettings():
            return ZhipuProvider(name, section)
        case CohereSettings():
            return CohereProvider(name, section)


def unconfigured(name: str) -> str:
    """What to do about a provider that is named but not in the configuration."""
    if name in KINDS:
        return f"it is not configured: {_NEEDS.get(name, f'set llm.providers.{name}')}"
    return "it is not configured"
