"""What a provider is: a set of pure translation functions between OpenAI's wire and a vendor's, and a few facts.

Every surface speaks OpenAI's wire to the providers: a :class:`ModelCall` carries a parsed body in OpenAI's shape, and
what comes back is OpenAI's JSON or OpenAI's server-sent events, whatever the vendor's own wire is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from sage.errors import SageError
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import DeploymentSettings

MAX_NAME = 256
"""The longest name of a model, in characters."""


class Operation(StrEnum):
    """What is asked of a model; the value is its path below ``/v1``.

    The first three have OpenAI's shapes, ``RERANK`` has Cohere's (v2), the last three have vLLM's.
    """

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


@dataclass(frozen=True, slots=True)
class Native:
    """The request in the caller's own wire, where that is not OpenAI's but that of a ``kind`` of provider.

    A provider of that kind sends ``body`` with the model's name changed and nothing else; all others send the call's.
    """

    kind: str
    body: Mapping[str, Any]


@dataclass(slots=True)
class ModelCall:
    """One request for a model, in OpenAI's shape.

    ``body`` is the parsed body, ``model`` the name that the caller used. ``wants_usage`` tells whether the caller
    asked for the usage chunk of a stream; the upstream is always asked.
    """

    operation: Operation
    body: dict[str, Any]
    model: str
    stream: bool = False
    wants_usage: bool = False
    fallbacks: tuple[str, ...] = ()
    deadline: float = math.inf
    """When the time of the running attempt is over (``time.monotonic``); the watch then cancels the call's task."""
    timed_out: bool = False
    """Whether the watch has cancelled it for that."""
    on_deadline: Callable[[], None] | None = None
    """Called when ``deadline`` has changed; set while a watch is on the call."""
    native: Native | None = None
    """The same request as the caller put it, for providers that speak the caller's wire."""

    @property
    def answers(self) -> int:
        """How many answers it asks for: ``n`` for each prompt."""
        each = self.body.get("n")
        return (each if isinstance(each, int) else 1) * count_prompts(self.body)


def count_prompts(body: dict[str, Any]) -> int:
    """The prompts in ``body``: a list of tokens is one, a list of texts or of such lists as many as it holds."""
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens: ``base_url`` without a trailing slash, and the headers that open it.

    A provider with several keys has several endpoints with one ``base_url``. ``socket`` is the path of a Unix socket
    to connect to in place of the address in ``base_url``.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """What a deployment says to its vendor's translation: its own name for the model, and how the model is kept."""

    model: str
    drop_unsupported: bool = False
    keep_alive: float | None = None
    """Seconds, if the model says so itself; for vendors that unload by themselves (Ollama)."""
    pin: bool = False


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP request to an upstream, ready to send; ``provider`` is its name, for errors.

    Dispatch sets ``timeouts`` and ``socket`` from the deployment, and ``total`` when less than the whole
    ``timeouts.total`` is left, in seconds.
    """

    provider: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeouts: Timeouts
    socket: str | None = None
    total: float | None = None
    retry_on_broken_connection: bool = False
    """It costs nothing and changes nothing, as with an engine of ours: when the connection breaks before the answer has
    begun (one kept open that the engine closed just then), it is sent once more."""


@dataclass(slots=True)
class Usage:
    """Tokens of one call, as the upstream counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Relay(Protocol):
    """Turns the bytes of an upstream's stream into whole events of OpenAI's wire, as they come."""

    usage: Usage | None
    finished: bool
    """The upstream said that the answer is whole."""
    error: SageError | None
    """The error that the upstream reported inside its stream; what came before it has been given out."""

    def feed(self, data: bytes) -> bytes:
        """The whole events that ``data`` completes, ready for the client; may be empty."""
        ...

    def close(self) -> bytes:
        """What is left to send at the upstream's end of stream; raises if the answer is not whole."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """A child process that serves one model: started by the registry's owner of that model, never from a request.

    The child prints one line of JSON on stdout, ``{"base_url": "http://127.0.0.1:…"}`` (and ``"socket"`` where it
    listens on a Unix socket, ``"health"`` where its health check is elsewhere than ``/health`` below that), once it
    serves, and a failure as ``{"error": "…"}``; it takes its key from the
    environment variable ``SAGE_ENGINE_KEY``.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 120.0
    memory: int | None = None
    """Bytes that it is reckoned to take; none: unknown until it serves."""


class RunningEngine(Protocol):
    """What a model needs of its engine, such as :class:`sage.middleware.engines.process.Engine`."""

    exited: asyncio.Future[int]

    @property
    def log_tail(self) -> tuple[str, ...]: ...

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes whose memory is the model's; none if it has none of its own."""
        ...

    async def start(self) -> Endpoint: ...

    async def health(self, within: float) -> int:
        """The status of its health check; 0 if it does not answer it ``within`` so many seconds."""
        ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull; ``completed`` of ``total`` bytes where the step counts any."""

    status: str
    completed: int | None = None
    total: int | None = None


class ModelHost(Protocol):
    """A server that loads and unloads its models itself: Ollama, or a vLLM that can sleep. Not on a request's way."""

    async def loaded(self) -> Mapping[str, Mapping[str, Any]]:
        """The models that it holds in memory now, by its own names, with what it tells of them."""
        ...

    async def load(self, model: str, *, pin: bool = False) -> None:
        """Returns once ``model`` is in memory; ``pin``: it stays there."""
        ...

    async def unload(self, model: str) -> None: ...

    def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Fetches ``model``; raises :class:`sage.errors.PermissionDenied` unless the configuration allows it."""
        ...

    async def show(self, model: str) -> Mapping[str, Any]:
        """What it knows of ``model``."""
        ...


class Provider(Protocol):
    """One configured provider: ``openai``, ``east``, ``local``…"""

    name: str
    kind: str
    timeouts: Timeouts
    max_concurrency: int | None
    retries: int
    endpoints: tuple[Endpoint, ...]
    """Where it listens, once for each key; empty if each model has an engine of its own."""
    host: ModelHost | None
    """How to load and unload models that live at the vendor's server; none if it has no such thing."""

    @property
    def asleep(self) -> bool:
        """Its server was sent to sleep from here, so that a request has to :meth:`wake` it first."""
        ...

    async def wake(self) -> None:
        """Returns once its server is awake; callers share one call."""
        ...

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        """The vendor's request for ``call``.

        Raises :class:`sage.errors.Unsupported` for what the vendor cannot do, unless ``target.drop_unsupported``.
        """
        ...

    def decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """The answer in the operation's own shape, under the public model name, from the vendor's whole answer."""
        ...

    def relay(self, call: ModelCall) -> Relay:
        """The translator of one stream."""
        ...

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        """The error of ours for an upstream's refusal; never with a secret of ours in it."""
        ...

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        """How to start the engine of that deployment; none if it has no engine of its own.

        Raises :class:`sage.errors.NotFound` for a model that it does not know.
        """
        ...

    def known_models(self) -> tuple[str, ...]:
        """The models it knows without asking anyone, and can serve."""
        ...

    def models_url(self) -> str | None:
        """The URL whose answer lists its models; none if it has no such thing."""
        ...

    def model_names(self, body: Any) -> frozenset[str]:
        """The models in the parsed answer of :meth:`models_url`; empty for what is no list."""
        ...

    def context(self, model: str) -> int | None:
        """Tokens that ``model`` takes of a question and its answer together, where that is known without asking."""
        ...

    def complaints(self) -> list[tuple[str, str]]:
        """Its own models that cannot serve, and why."""
        ...

    def missing(self, model: str) -> str | None:
        """Why it cannot serve ``model`` though it is configured with it; none if that is not so."""
        ...
