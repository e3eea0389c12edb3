"""Models that a program registers at its gateway."""

from __future__ import annotations

from sage.errors import ConfigError
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.settings.providers import OllamaSettings
from sage.middleware.settings.settings import Model

_OLLAMA = "http://localhost:11434"


async def register_on_loop(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    register(gateway, name, model, provider)


def register(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    registry = gateway.registry
    if provider == "ollama" and provider not in registry.providers:
        registry.providers[provider] = OllamaProvider(provider, OllamaSettings(base_url=_OLLAMA))
    elif provider not in registry.providers and provider not in registry.absent and provider != "openai":
        names = ", ".join(sorted({*registry.providers, *registry.absent, "openai", "ollama"}))
        raise ConfigError(f"there is no provider '{provider}'; there are: {names}")
    registry.register(name, model)
