"""A vLLM server: OpenAI's wire, at the address that is configured."""

from __future__ import annotations

from sage.middleware.providers.openai import OpenAIProvider


class VllmProvider(OpenAIProvider):
    """vLLM's OpenAI-compatible server (docs.vllm.ai, *OpenAI-Compatible Server*)."""

    kind = "vllm"
