"""LiteLLM's providers: which of ours answers for each, where, and with which key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sage.middleware.settings.kinds import vendors_of


@dataclass(frozen=True, slots=True)
class LiteLLMProvider:
    """One of LiteLLM's providers, by the prefix that its models have (``mistral/…``)."""

    kind: str
    """Ours, of :data:`sage.middleware.settings.kinds.KINDS`."""
    variable: str | None = None
    """Where LiteLLM reads the key if the configuration has none; ``None`` means that it mostly needs none."""
    base_url: str | None = None
    """Where it is without ``api_base``; ``None`` means where the kind is by itself, or nowhere."""
    needs_base: bool = False
    """It has no address of its own."""


def _openai_wire(variable: str, base_url: str) -> LiteLLMProvider:
    return LiteLLMProvider("openai", variable, base_url)


_OPENAI = LiteLLMProvider("openai", "OPENAI_API_KEY")
_OLLAMA = LiteLLMProvider("ollama", base_url="http://localhost:11434")
_COHERE = LiteLLMProvider("cohere", "COHERE_API_KEY")
_ZHIPU = LiteLLMProvider("zhipu", "ZAI_API_KEY")
_SERVER = LiteLLMProvider("openai", needs_base=True)

PROVIDERS: Mapping[str, LiteLLMProvider] = {
    "openai": _OPENAI,
    "text-completion-openai": _OPENAI,
    "azure": LiteLLMProvider("openai", "AZURE_API_KEY", needs_base=True),
    "azure_text": LiteLLMProvider("openai", "AZURE_API_KEY", needs_base=True),
    "hosted_vllm": LiteLLMProvider("vllm", needs_base=True),
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "cohere": _COHERE,
    "cohere_chat": _COHERE,
    "zai": _ZHIPU,
    "zhipu": _ZHIPU,
    "deepseek": LiteLLMProvider("deepseek", "DEEPSEEK_API_KEY"),
    "groq": LiteLLMProvider("groq", "GROQ_API_KEY"),
    "openrouter": LiteLLMProvider("openrouter", "OPENROUTER_API_KEY"),
    "moonshot": LiteLLMProvider("moonshot", "MOONSHOT_API_KEY"),
    "siliconflow": LiteLLMProvider("siliconflow", "SILICONFLOW_API_KEY"),
    "dashscope": LiteLLMProvider("dashscope", "DASHSCOPE_API_KEY"),
    "anthropic": LiteLLMProvider("anthropic", "ANTHROPIC_API_KEY"),
    "gemini": LiteLLMProvider("gemini", "GEMINI_API_KEY"),
    "fireworks_ai": LiteLLMProvider("fireworks", "FIREWORKS_AI_API_KEY"),
    "mistral": LiteLLMProvider("mistral", "MISTRAL_API_KEY"),
    "nvidia_nim": LiteLLMProvider("nvidia", "NVIDIA_NIM_API_KEY"),
    "perplexity": LiteLLMProvider("perplexity", "PERPLEXITYAI_API_KEY"),
    "together_ai": LiteLLMProvider("together", "TOGETHERAI_API_KEY"),
    "volcengine": LiteLLMProvider("volcengine", "VOLCENGINE_API_KEY"),
    "xai": LiteLLMProvider("xai", "XAI_API_KEY"),
    "minimax": LiteLLMProvider("minimax", "MINIMAX_API_KEY"),
    "stepfun": LiteLLMProvider("stepfun", "STEPFUN_API_KEY"),
    # These speak OpenAI's wire at an address of their own.
    "cerebras": _openai_wire("CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    "deepinfra": _openai_wire("DEEPINFRA_API_KEY", "https://api.deepinfra.com/v1/openai"),
    "sambanova": _openai_wire("SAMBANOVA_API_KEY", "https://api.sambanova.ai/v1"),
    "lm_studio": LiteLLMProvider("lmstudio", None, "http://localhost:1234/v1"),
    "llamafile": LiteLLMProvider("openai", None, "http://127.0.0.1:8080/v1"),
    "custom_openai": _SERVER,
    "litellm_proxy": _SERVER,
    "openai_like": _SERVER,
    "xinference": _SERVER,
}
"""By prefix. What is not here (``bedrock/``, ``vertex_ai/``…) has a wire that SAGE does not speak."""

_UNPREFIXED = {"claude": "anthropic", "mistral": "mistral", "gemini": "vertex_ai"}


def split_model(model: str, provider: str | None) -> tuple[str, str]:
    """LiteLLM's provider and the model's name there. ``provider`` is ``custom_llm_provider``, if it is given.

    The provider is empty where LiteLLM could not tell it from the name either.
    """
    prefix, slash, rest = model.partition("/")
    if provider:
        return provider, rest if slash and prefix == provider else model
    if slash:
        return prefix, rest
    family = next((family for family in _UNPREFIXED if model.startswith(family)), None)
    if family is not None:
        return _UNPREFIXED[family], model
    vendor = next(iter(vendors_of(model)), "")
    return ("zai" if vendor == "zhipu" else vendor), model
