"""Every kind of provider, one row each: its section, its variables, its address, its models' names, its adapter.

Everything that depends on the kind is made from these rows: the sections under ``llm.providers``, the vendors'
variables, the vendor of a model's name, the adapter of a provider, the advice in errors, the tests' list of vendors,
and the tables in docs/providers.md and docs/configuration.md.

A vendor that speaks OpenAI's wire is one row in :data:`PRESETS` and nothing else. A vendor with a wire of its own is
two places: a row in :data:`VENDORS`, and the file with the adapter that the row names (and a section class in
:mod:`sage.middleware.settings.providers`, if it has options that no other kind has).

A row *names* its adapter and does not import it: adapters depend on settings, never the reverse. The registry's factory
imports it, so a gateway only loads the adapters of the vendors that it is configured with. A test checks that each row
fits its adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    RemoteProvider,
    VllmSettings,
)
from sage.middleware.settings.quantities import ollama_url


@dataclass(frozen=True, kw_only=True)
class ProviderKind:
    """The facts of a kind of provider that do not depend on a configuration."""

    name: str
    adapter: str
    """``module:Class`` below ``sage.middleware.providers``."""
    settings: type[ProviderCommon] = RemoteProvider
    """Its section of the configuration."""
    needs: tuple[str, ...] = ("api_key",)
    """A provider is configured when one of these keys is set; empty means always."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The vendor's own environment variables, each with the key that it fills. Of two for one key the first wins."""
    read_variable: Callable[[str], str] = str
    """Makes the key's value of a variable's text."""
    default_url: str | None = None
    """The address without a ``base_url``; ``None`` means that the vendor has no fixed address."""
    families: tuple[str, ...] = ()
    """Patterns (``gpt-*``) of the model names that are the vendor's own."""
    responses: bool = False
    """The vendor's own address has OpenAI's route of responses."""
    starts_engines: bool = False
    """A deployment's ``engine`` serves without ``base_url``."""
    keeps_files: bool = False
    """Its adapter takes the data directory as a third argument."""

    def is_configured(self, section: ProviderCommon) -> bool:
        """Whether ``section`` gives what a provider of this kind needs."""
        if not self.needs or not isinstance(section, RemoteProvider):
            return True
        return ("api_key" in self.needs and bool(section.keys)) or (
            "base_url" in self.needs and section.base_url is not None
        )

    def what_to_set(self) -> str:
        """The advice for a provider of this kind that is not configured."""
        if not self.needs:
            return f"set llm.providers.{self.name}"
        variable = next(variable for variable, key in self.variables.items() if key in self.needs)
        engine = ", or give a deployment an 'engine'" if self.starts_engines else ""
        first, *others = self.needs
        if others:
            return f"set {variable}, or its {first} or {' or '.join(others)}{engine}"
        return f"set {variable}, or its {first}{engine}"


@dataclass(frozen=True, kw_only=True)
class Preset(ProviderKind):
    """A vendor that speaks OpenAI's wire at an address of its own. What it cannot do is refused without a request."""

    adapter: str = "presets:PresetProvider"
    operations: tuple[str, ...] = ("chat/completions",)
    """The operations that it has, by their paths below the address (``embeddings``, ``completions``, ``rerank``)."""
    always_streams_usage: bool = False
    """It sends the usage in every stream and refuses ``stream_options``, which asks for it."""
    sampling: tuple[str, ...] = ()
    """Fields beside OpenAI's that it has for choosing the next token (``top_k``, ``min_p``…). Others of that sort are
    left out for a model with ``drop_unsupported``."""
    unsupported: tuple[str, ...] = ()
    """OpenAI's fields that it does not have (``n``), or values of them (``response_format:json_schema``; of an object,
    the value is its ``type``): refused with 400, or left out for a model with ``drop_unsupported``."""


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

PRESETS: tuple[Preset, ...] = (
    Preset(  # api-docs.deepseek.com
        name="deepseek",
        variables={"DEEPSEEK_API_KEY": "api_key"},
        default_url="https://api.deepseek.com",
        families=("deepseek-chat", "deepseek-reasoner", "deepseek-v4-*"),
        unsupported=("n", "response_format:json_schema"),
    ),
    Preset(  # console.groq.com/docs/openai
        name="groq",
        variables={"GROQ_API_KEY": "api_key"},
        default_url="https://api.groq.com/openai/v1",
        unsupported=("n", "logprobs", "top_logprobs", "logit_bias"),
    ),
    Preset(  # openrouter.ai/docs
        name="openrouter",
        variables={"OPENROUTER_API_KEY": "api_key"},
        default_url="https://openrouter.ai/api/v1",
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "top_a", "min_p", "repetition_penalty"),
    ),
    Preset(  # platform.kimi.ai/docs; in China https://api.moonshot.cn/v1, with keys of its own
        name="moonshot",
        variables={"MOONSHOT_API_KEY": "api_key"},
        default_url="https://api.moonshot.ai/v1",
        families=("kimi-*", "moonshot-v1-*"),
    ),
    Preset(  # docs.siliconflow.cn; outside China https://api.siliconflow.com/v1
        name="siliconflow",
        variables={"SILICONFLOW_API_KEY": "api_key"},
        default_url="https://api.siliconflow.cn/v1",
        operations=("chat/completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p"),
    ),
    Preset(  # help.aliyun.com/zh/model-studio; outside China https://dashscope-intl.aliyuncs.com/compatible-mode/v1
        name="dashscope",
        variables={"DASHSCOPE_API_KEY": "api_key"},
        default_url="https://dashscope.aliyuncs.com/compatible-mode/v1",
        families=("qwen-*",),
        operations=("chat/completions", "completions", "embeddings"),
        sampling=("top_k", "repetition_penalty"),
    ),
)
"""Vendors that speak OpenAI's wire. The comment in each row names the vendor's page that it was read from."""

KINDS: Mapping[str, ProviderKind] = {kind.name: kind for kind in (*VENDORS, *PRESETS)}
"""All of them, by name."""

RESERVED_PREFIXES = frozenset(kind.name for kind in VENDORS)
"""``openai/…`` means a model of that kind, even where no provider of it is configured.

Names of presets are not reserved, since servers for the models of many vendors list names such as ``deepseek/…``.
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
