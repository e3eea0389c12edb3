"""Every kind of provider, one row each: its section, its variables, its address, its models' names, its adapter.

Everything that depends on the kind is made from these rows: the sections under ``llm.providers``, the vendors'
variables, the vendor of a model's name, the adapter of a provider, the advice in errors, the tests' list of vendors,
and the tables in docs/providers.md and docs/configuration.md.

A vendor that speaks OpenAI's wire is one row in :mod:`~sage.middleware.settings.vendors.presets` and nothing else. A
vendor with a wire of its own is two places: a row in :data:`VENDORS`, and the file with the adapter that the row names
(and a section class in :mod:`sage.middleware.settings.providers`, if it has options that no other kind has).

A row *names* its adapter and does not import it: adapters depend on settings, never the reverse. The registry's factory
imports it, so a gateway only loads the adapters of the vendors that it is configured with. A test checks that each row
fits its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sage.middleware.settings.providers import (
    AnthropicSettings,
    LocalProvider,
    OllamaSettings,
    OpenAISettings,
    ProviderCommon,
    VllmSettings,
)
from sage.middleware.settings.quantities import ollama_url
from sage.middleware.settings.vendors.kind import ProviderKind
from sage.middleware.settings.vendors.presets import PRESETS

VENDORS: tuple[ProviderKind, ...] = (
    ProviderKind(
        name="openai",
        adapter="openai:OpenAIProvider",
        settings=OpenAISettings,
        needs=("api_key", "base_url"),
        variables={"OPENAI_API_KEY": "api_key", "OPENAI_BASE_URL": "base_url"},
        default_url="https://api.openai.com/v1",
        families=(
            *("gpt-*", "chatgpt-*", "o[0-9]*", "text-embedding-*", "davinci-*", "babbage-*", "tts-*", "whisper-*"),
            *("dall-e-*", "omni-moderation-*", "text-moderation-*"),
        ),
        responses=True,
    ),
    ProviderKind(
        name="vllm",
        adapter="vllm.provider:VllmProvider",
        settings=VllmSettings,
        needs=("base_url",),
        variables={"VLLM_BASE_URL": "base_url"},
        starts_engines=True,
    ),
    ProviderKind(
        name="ollama",
        adapter="ollama.provider:OllamaProvider",
        settings=OllamaSettings,
        needs=("base_url",),
        variables={"OLLAMA_HOST": "base_url"},
        read_variable=ollama_url,
    ),
    ProviderKind(
        name="zhipu",
        adapter="zhipu:ZhipuProvider",
        variables={"ZHIPUAI_API_KEY": "api_key", "ZAI_API_KEY": "api_key"},
        default_url="https://open.bigmodel.cn/api/paas/v4",
        families=("glm-*",),
    ),
    ProviderKind(
        name="cohere",
        adapter="cohere.provider:CohereProvider",
        variables={"CO_API_KEY": "api_key", "COHERE_API_KEY": "api_key"},
        default_url="https://api.cohere.com",
        families=("command-*", "embed-*", "rerank-*"),
    ),
    ProviderKind(
        name="anthropic",
        adapter="anthropic.provider:AnthropicProvider",
        settings=AnthropicSettings,
        variables={
            "ANTHROPIC_API_KEY": "api_key",
            "ANTHROPIC_AUTH_TOKEN": "auth_token",
            "ANTHROPIC_BASE_URL": "base_url",
        },
        default_url="https://api.anthropic.com",
        families=("claude-*",),
    ),
    ProviderKind(
        name="gemini",
        adapter="gemini.provider:GeminiProvider",
        variables={"GEMINI_API_KEY": "api_key", "GOOGLE_API_KEY": "api_key"},
        default_url="https://generativelanguage.googleapis.com/v1beta",
        families=("gemini-*",),
    ),
    ProviderKind(
        name="local", adapter="local.provider:LocalEngineProvider", settings=LocalProvider, needs=(), keeps_files=True
    ),
)
"""Kinds with an adapter of their own."""

KINDS: Mapping[str, ProviderKind] = {kind.name: kind for kind in (*VENDORS, *PRESETS)}
"""All of them, by name."""

RESERVED_PREFIXES = frozenset({"openai", "vllm", "ollama", "zhipu", "cohere", "local"})
"""``openai/…`` means a model of that kind, even where no provider of it is configured.

Other names are not reserved, since servers for the models of many vendors list such as ``deepseek/…`` and
``anthropic/…``.
"""

VARIABLES: Mapping[str, tuple[ProviderKind, str]] = {
    variable: (kind, key) for kind in KINDS.values() for variable, key in kind.variables.items()
}
"""Each vendor's variable, with the kind whose provider it configures and the key that it fills."""


def vendors_of(model: str) -> list[str]:
    """The kinds that a model's name belongs to by their ``families``."""
    return [kind.name for kind in KINDS.values() if any(fnmatchcase(model, pattern) for pattern in kind.families)]


class _SectionByKind:
    """Tells pydantic to read a section as the class of its ``kind``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        sections = {kind.name: handler.generate_schema(kind.settings) for kind in KINDS.values()}
        return core_schema.tagged_union_schema(sections, discriminator="kind")


ProviderSection = Annotated[ProviderCommon, _SectionByKind()]
"""The section of one provider, of the class that its kind has."""
