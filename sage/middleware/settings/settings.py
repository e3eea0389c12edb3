"""All settings, typed, with their defaults.

The defaults here are the built-in configuration; the repository's `config.yaml` states them line for line, and a test
keeps the two equal. :mod:`sage.middleware.settings.reading` reads and merges the sources.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import AfterValidator, Field, model_validator

from sage.addresses import AddressRefused, AllowedHosts
from sage.middleware.settings.audit import AuditSettings
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings
from sage.middleware.settings.database import DatabaseSetting
from sage.middleware.settings.kinds import KINDS, ProviderSection
from sage.middleware.settings.limits import Limits, LimitsSettings, RoleSettings
from sage.middleware.settings.mcp import McpSettings
from sage.middleware.settings.oidc import Oidc
from sage.middleware.settings.providers import SettingsSection, TimeoutOverrides
from sage.middleware.settings.quantities import Duration, Origin, Size, Text, expand, nearest
from sage.middleware.settings.queue import QueueSettings
from sage.middleware.settings.responses import ResponsesSettings
from sage.middleware.settings.retrieval import Retrieval
from sage.middleware.settings.services import ServicesSettings
from sage.middleware.settings.usage import PriceSettings, UsageSettings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Api(SettingsSection):
    """The HTTP server. Beyond loopback it never runs without auth."""

    host: Text = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1)
    """Processes that take connections. Above 1 they share the port, and all but the first only pass on what is not a
    call of a model at a remote server."""
    max_body_bytes: Size = 32 * 2**20
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may be addressed to. Empty means any with auth on, and loopback names without."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other sites whose pages may call the gateway from a browser (CORS), such as ``https://app.example``. ``*`` stands
    for every site, without credentials of the browser's own."""
    max_connections: int = Field(4096, ge=1)
    """Of clients, at one time. Fewer when this process may not open twice as many files."""
    max_connections_per_address: int | None = Field(None, ge=1)
    """``None`` means half of all."""
    client_timeout: Duration = Field(30.0, gt=0)
    """How long a client may take for a head, and for each 500 bytes a second of a body or an answer, in seconds."""
    shutdown_grace: Duration = 30.0
    """How long running requests may go on after SIGTERM, in seconds."""
    access_log: bool = True


RoleName = Literal["admin", "owner", "user", "viewer"]


class Auth(SettingsSection):
    """Who may call."""

    enabled: bool = True
    access_token_ttl: Duration = 900.0
    refresh_token_ttl: Duration = 30 * 86400.0
    signing_key_max_age: Duration = 90 * 86400.0
    """After which another key signs access tokens."""
    oidc: Oidc | None = None
    """Single sign-on; ``None`` means that there is none."""
    roles: dict[RoleName, RoleSettings] = Field(default_factory=dict)
    """Defaults for the users of a role: what holds for each of them who has no limits of its own or of its team."""

    def default_limits(self) -> dict[str, Limits]:
        """By role, for each of its users."""
        return {role: settings.limits for role, settings in self.roles.items() if settings.limits is not None}


class ManagedServer(SettingsSection):
    """How to start a deployment's own server."""

    args: tuple[str, ...] = ()
    memory: Size | None = None
    """How much of ``llm.memory_budget`` it takes; ``None`` means measured once it serves."""


class DeploymentSettings(SettingsSection):
    """A provider's model that answers for one of ours."""

    provider: Text
    model: Text
    weight: float = Field(1.0, gt=0)
    priority: int = Field(0, ge=0)
    """The lower goes first; among equals the weight decides."""
    engine: ManagedServer | None = None
    """A server that the gateway starts itself (vLLM)."""
    lora: Text | None = None
    """A LoRA adapter over ``model``: the name of a directory in the provider's ``lora_dir`` (vLLM)."""
    price: PriceSettings | None = None
    """What it costs here; ``None`` means as ``llm.prices`` says, else as its vendor publishes."""


def _at_least_one(deployments: tuple[DeploymentSettings, ...]) -> tuple[DeploymentSettings, ...]:
    # Not Field(min_length=1): pydantic counts only the valid ones, and reports the fault twice.
    if not deployments:
        raise ValueError("give at least one, such as {provider: openai, model: gpt-4o-mini}")
    return deployments


class Model(SettingsSection):
    """A public name, and the deployments that answer for it."""

    deployments: Annotated[tuple[DeploymentSettings, ...], AfterValidator(_at_least_one)]
    fallbacks: tuple[str, ...] = ()
    """Models that answer when this one cannot, in this order, before the first byte only."""
    keep_alive: Duration | None = None
    """Managed models: seconds without a request after which it unloads; ``None`` means ``llm.keep_alive``."""
    pin: bool = False
    """Managed models: never unloaded when idle or to make room for another."""
    preload: bool = False
    """Managed models: loaded when the gateway starts."""
    drop_unsupported: bool = False
    """Leaves out what a deployment's vendor cannot do, instead of refusing the request."""
    timeouts: TimeoutOverrides = Field(default_factory=TimeoutOverrides)
    max_concurrency: int | None = Field(None, ge=1)
    """Requests at a time for each of its deployments; ``None`` means no bound but the provider's."""
    retries: int = Field(2, ge=0, le=2)
    """Further attempts after the first; the provider's, if that is less."""
    limits: Limits | None = None
    """What all callers together may ask of it; ``None`` means no bounds."""
    budget: BudgetSettings | None = None
    """What all callers together may spend on it."""


class RequestLimits(SettingsSection):
    """Bounds on how much work one request may ask for."""

    max_tokens: int = Field(131072, ge=1)
    max_choices: int = Field(8, ge=1)
    """``n`` or ``best_of`` times the number of prompts."""
    max_inputs: int = Field(2048, ge=1)
    """Texts in one embeddings request."""
    max_audio_bytes: Size = Field(25 * 2**20, ge=1)
    """Of the recording in one form (``/v1/audio/transcriptions``, ``/translations``)."""
    max_image_bytes: Size = Field(50 * 2**20, ge=1)
    """Of all images in one form (``/v1/images/edits``, ``/variations``)."""
    image_hosts: tuple[str, ...] = ()
    """Hosts whose media URLs a request may have an upstream fetch; ``data:`` URLs are always allowed."""


class Routing(SettingsSection):
    """How requests find a deployment when some are busy or failing."""

    queue_timeout: Duration = 10.0
    """How long a request may wait for a deployment that is full or cooling down (``Retry-After``), in seconds."""
    queue_size: int = Field(1000, ge=0)
    """Requests that may wait for one model at a time; one more is refused at once."""
    breaker_failures: int = Field(5, ge=1)
    """Failures in a row after which a deployment gets no requests for a while."""
    breaker_pause: Duration = 5.0
    """Seconds until one request probes it; doubled each time the probe fails, up to twelve times this."""


TransportKind = Literal["builtin", "aiohttp"]


class Llm(SettingsSection):
    """Providers, models and their limits."""

    providers: dict[str, ProviderSection] = Field(default_factory=dict)
    models: dict[str, Model] = Field(default_factory=dict)
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """By patterns of ``provider/model`` (``east/gpt-4o*``) or of the model's name there; the first that fits holds."""
    keep_alive: Duration = 600.0
    memory_budget: Size | None = None
    """Bytes that managed models may take together; ``None`` means no bound."""
    routing: Routing = Field(default_factory=Routing)
    limits: RequestLimits = Field(default_factory=RequestLimits)
    transport: TransportKind = "builtin"
    """The HTTP client towards upstreams. Requests through a proxy are always aiohttp's."""

    @model_validator(mode="before")
    @classmethod
    def _kinds(cls, data: Any) -> Any:
        """Gives each provider that bears the name of a kind that kind; adds ``local``."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            return data
        configured = data.get("providers") or {}
        if not isinstance(configured, dict):
            return data
        providers: dict[str, Any] = {}
        for name, value in {"local": {}, **configured}.items():
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


def _data_dir() -> Path:
    return Path(platformdirs.user_data_dir("sage", appauthor=False))


class Settings(SettingsSection):
    """All settings. Two applications with different settings can run in one process."""

    data_dir: Annotated[Path, AfterValidator(expand)] = Field(default_factory=_data_dir)
    database: DatabaseSetting | None = None
    """A PostgreSQL database for accounts, jobs, usage, budgets and kept responses; ``None`` means SQLite files in
    ``data_dir``."""
    console: bool = True
    """Whether there is a console at ``/console``, which ``/`` leads browsers to."""
    api: Api = Field(default_factory=Api)
    auth: Auth = Field(default_factory=Auth)
    llm: Llm = Field(default_factory=lambda: Llm.model_validate({}))
    retrieval: Retrieval = Field(default_factory=Retrieval)
    services: ServicesSettings = Field(default_factory=ServicesSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    responses: ResponsesSettings = Field(default_factory=ResponsesSettings)
    usage: UsageSettings = Field(default_factory=UsageSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    budgets: BudgetsSettings = Field(default_factory=BudgetsSettings)

    @model_validator(mode="after")
    def _webhook_is_allowed(self) -> Self:
        if self.budgets.webhook is not None:
            if not self.queue.webhooks.hosts:
                raise ValueError("budgets.webhook needs its host in queue.webhooks.hosts, and queue.webhooks.secret")
            try:
                AllowedHosts(self.queue.webhooks.hosts, "queue.webhooks.hosts").check(self.budgets.webhook)
            except AddressRefused as exc:
                raise ValueError(f"budgets.webhook: {exc.message}") from exc
        return self

    @property
    def has_budgets(self) -> bool:
        """Whether any budget stands in it."""
        return self.budgets.has_any or any(model.budget is not None for model in self.llm.models.values())

    @property
    def has_limits(self) -> bool:
        """Whether any limit stands in it."""
        models = self.llm.models.values()
        return bool(self.auth.default_limits()) or any(model.limits is not None for model in models)

    audit: AuditSettings = Field(default_factory=AuditSettings)
    mcp: McpSettings = Field(default_factory=McpSettings)

    @model_validator(mode="after")
    def _keys_are_no_sources(self) -> Self:
        """Jobs never read what is in ``data_dir``, such as the keys of this installation."""
        data_dir = Path(os.path.realpath(self.data_dir))
        for root in self.queue.ingest.roots:
            real = Path(os.path.realpath(root))
            if real.is_relative_to(data_dir) or data_dir.is_relative_to(real):
                raise ValueError(
                    f"queue.ingest.roots: '{root}' and data_dir '{self.data_dir}' lie in each other, so whoever "
                    "submits an ingest could read the keys of this installation"
                )
        return self

    @model_validator(mode="after")
    def _open_on_loopback_only(self) -> Self:
        if not self.auth.enabled and self.api.host not in LOOPBACK:
            raise ValueError(
                f"auth.enabled: false (--no-auth) goes only with a loopback host, not '{self.api.host}'; "
                "use --host 127.0.0.1 or leave auth on"
            )
        if not self.auth.enabled and "*" in self.api.allowed_origins:
            raise ValueError(
                "api.allowed_origins: '*' does not go with auth.enabled: false (--no-auth), since any page that you "
                "visit could use the gateway; name the origins"
            )
        return self
