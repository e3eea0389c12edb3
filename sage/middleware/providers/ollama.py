"""An Ollama server, through the OpenAI-compatible routes that it has below ``/v1``."""

from __future__ import annotations

from sage.middleware.providers.openai import OpenAIProvider


class OllamaProvider(OpenAIProvider):
    """Ollama's OpenAI compatibility (docs of ollama, *OpenAI compatibility*); ``base_url`` is the server's root."""

    kind = "ollama"

    def _api_root(self, base_url: str) -> str:
        return base_url if base_url.endswith("/v1") else f"{base_url}/v1"
