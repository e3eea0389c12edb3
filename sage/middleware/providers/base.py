"""What a provider is: a set of pure translation functions between OpenAI's wire and a vendor's, and a few facts.

Every surface speaks OpenAI's wire to the providers: a :class:`ModelCall` carries a parsed body in OpenAI's shape, and
what comes back is OpenAI's JSON or OpenAI's server-sent events, whatever the vendor's own wire is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from sage.errors import SageError
from sage.middleware.providers.call_steps import CallStep, OpenedConnection
from sage.middleware.providers.token_details import token_details
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import DeploymentSettings

TokenForm = Literal["messages", "prompt"]
"""What a tokenizer takes: a chat, with the model's template around it, or a text."""
MAX_NAME = 256
"""The longest name of a model, in characters."""


class Operation(StrEnum):
    """What a request asks a model for; the value is its path below ``/v1``.

    Most have OpenAI's shapes, ``RERANK`` has Cohere's (v2), ``SCORE``, ``TOKENIZE`` and ``DETOKENIZE`` have vLLM's.
    """

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    MODERATIONS = "moderations"
    SPEECH = "audio/speech"
    TRANSCRIPTIONS = "audio/transcriptions"
    TRANSLATIONS = "audio/translations"
    IMAGES = "images/generations"
    IMAGE_EDITS = "images/edits"
    IMAGE_VARIATIONS = "images/variations"


RELAYED = frozenset(
    {
        Operation.SPEECH,
        Operation.TRANSCRIPTIONS,
        Operation.TRANSLATIONS,
        Operation.IMAGES,
        Operation.IMAGE_EDITS,
        Operation.IMAGE_VARIATIONS,
    }
)
"""Operations on sounds and images. Their answers go on as they come, whatever their type, and so do their forms."""


class Upload(Protocol):
    """The body of a request that goes out as it comes in."""

    length: int | None
    """Its bytes; ``None`` means that nobody knows yet."""

    async def read(self) -> bytes:
        """The next bytes, as soon as there are some; empty at the end.

        Raises what is wrong with the rest of the body, and whatever tells that the client has left.
        """
        ...


class Form(Protocol):
    """A form (``multipart/form-data``) of a caller, whose files are still on their way."""

    content_type: str
    size: int | None
    """Its bytes as the caller sends it; ``None`` means that nobody knows."""

    @property
    def can_repeat(self) -> bool:
        """Whether :meth:`open` can still begin at its first byte."""
        ...

    def open(self, model: str, check: Callable[[Mapping[str, Any]], None]) -> Upload:
        """All of it for an upstream that calls the model ``model``. ``check`` is given the fields that come later than
        the first file, and raises for what is not to be passed on."""
        ...


@dataclass(frozen=True, slots=True)
class Native:
    """The request in the caller's own wire, where that is not OpenAI's but that of a ``kind`` of provider.

    A provider of that kind sends ``body`` with the model's name changed and nothing else; all others send the call's.
    It answers in OpenAI's shape, unless ``kind`` is one of its :attr:`Provider.native_answers`.
    """

    kind: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the caller's that belong to its wire (``anthropic-version``), by their names in small letters. The
    provider decides which of them it sends."""


@dataclass(slots=True)
class ModelCall:
    """One request for a model, in OpenAI's shape.

    ``body`` is the parsed body, ``model`` the name that the caller used. ``wants_usage`` tells whether the caller
    asked for the usage chunk of a stream; the gateway always asks the upstream for it.
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
    caller: tuple[str, str] = ("", "")
    """The tenant and the user that it is made for; the gateway sets it. Where requests wait, tenants take turns."""
    token_bound: int | None = None
    """Where the caller asks for an answer without a bound (``max_tokens: -1``): the most tokens that it may have."""
    omitted: str | None = None
    """A field that an upstream has refused in this call and that the gateway has added to it: it is left out now."""
    native: Native | None = None
    """The same request as the caller wrote it, for providers that speak the caller's wire."""
    relayed: bool = False
    """Whether its answer goes on as it comes, whatever its type (bytes, JSON, events). ``stream`` is true then."""
    form: Form | None = None
    """The request where it is a form; ``body`` then has the fields that came before its files."""
    low_priority: bool = False
    """Live calls go before it (``x-sage-priority: low``)."""
    attempts: int = 0
    """Requests that were sent to upstreams for it so far."""
    asked: Any = None
    """The deployment that the last of them was sent to."""
    dispatched_at: float | None = None
    """When dispatch took it over (``time.monotonic``)."""
    steps: list[CallStep] | None = None
    """What it has met on its way; ``None`` means nothing but one good answer."""
    request_id: bytes = b""
    """The ``x-request-id`` of the request that it was made of; empty without one."""
    text_size: int | None = None
    """The bytes of text of a chat whose messages are a role and a text each; admission sets it. ``None`` for others,
    and for long texts that nobody has measured."""
    is_plain: bool = False
    """Whether it is a chat of such messages that asks for one answer, and has no field with text beside them; admission
    sets it."""
    answer_bound: int = 0
    """The greatest limit on new tokens that the request has; admission sets it, 0 without one."""
    hints: Mapping[str, Any] | None = None
    """Fields beside those of ``body``, for vendors that have such a thing: how to load a model (``options``), not to
    think (``reasoning_effort: none``), not to cut texts (``truncate: false``). They ask nothing of the others."""

    def note(self, step: CallStep) -> None:
        """It has met ``step``."""
        if self.steps is None:
            self.steps = []
        self.steps.append(step)

    def forget_body(self) -> None:
        """Lets go of the body: the stream has begun, so no upstream is asked any more, and streams may be very many."""
        self.body, self.native, self.hints = {}, None, None

    @property
    def not_to_think(self) -> bool:
        """Whether a model that can think is asked not to."""
        return self.hints is not None and self.hints.get("reasoning_effort") == "none"

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
    to connect to in place of the address in ``base_url``. Each URL ends with ``query`` (``?api-version=…``). Requests
    go through ``proxy`` if there is one.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    socket: str | None = None
    query: str = ""
    proxy: str | None = None

    def url(self, path: str, root: str | None = None) -> str:
        """The URL of ``path`` below ``base_url``, or below ``root``."""
        url = (self.base_url if root is None else root) + path
        if not self.query:
            return url
        return url + (self.query if "?" not in path else "&" + self.query[1:])


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """What an adapter has to know of a deployment: the vendor's name for the model, and how to keep the model."""

    model: str
    drop_unsupported: bool = False
    """Leave out what the vendor cannot do, instead of refusing the request."""
    keep_alive: float | None = None
    """Seconds, where the model has a setting of its own; for vendors that unload models themselves (Ollama)."""
    pin: bool = False
    """The vendor's server is to keep the model in memory."""


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP request to an upstream, ready to send; ``provider`` is its name, for errors.

    Dispatch sets ``timeouts`` and ``socket`` from the deployment, and ``total``, in seconds, when less than
    ``timeouts.total`` remains.
    """

    provider: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeouts: Timeouts
    socket: str | None = None
    total: float | None = None
    whole: bool = False
    """Its answer is no stream: it has ``timeouts.total`` for all of it, and no limit on the first byte or between."""
    proxy: str | None = None
    once: bool = False
    """Not to be sent twice, since the budget of further attempts is spent."""
    opened: OpenedConnection | None = None
    """The connection that the transport has opened for it, the last one; ``None`` means that a kept one has served."""
    transport: Answering | None = None
    """Answers the request in this process; ``None`` means that it goes out over HTTP."""
    upload: Upload | None = None
    """The body, where it goes out as it comes in, over a connection of its own; ``body`` is empty then."""
    retry_on_broken_connection: bool = False
    """Sends the request once more whenever the connection breaks before the answer has begun, not only when a
    connection that was used before breaks at once. Only for requests that cost nothing and change nothing."""

    @property
    def sent_again(self) -> bool:
        """Whether the transport has sent it twice, since the first connection broke."""
        return self.opened is not None and self.opened.sent_again


Sink = Callable[[bytes], bool]
"""Takes some bytes at once, and tells whether it goes on."""


def takes_nothing(_data: bytes) -> bool:
    """The :data:`Sink` of a reader that waits for each piece."""
    return False


class HasChunks(Protocol):
    """What :class:`ReadInChunks` asks of an answer."""

    async def chunk(self) -> bytes: ...


class UpstreamResponse(Protocol):
    """An upstream's answer, its head received."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """The full body. Raises :class:`UpstreamFailed` if it is cut off, :class:`DeadlineExceeded` if it stalls."""
        ...

    async def chunk(self) -> bytes:
        """The next bytes, as soon as some have arrived; empty at the clean end. Raises as :meth:`read` does."""
        ...

    async def pour(self, sink: Sink) -> bool:
        """Gives ``sink`` what comes after the first :meth:`chunk`, as it comes, until it takes no more.

        ``True`` means that the body has come to its clean end, and ``sink`` was given all of it. Raises as
        :meth:`read` does. ``sink`` must not raise.
        """
        ...

    def close(self) -> None:
        """Ends the exchange. The connection is closed at once unless the body was read to its end."""
        ...


class ReadInChunks:
    """:meth:`UpstreamResponse.pour` for an answer that is read chunk by chunk."""

    __slots__ = ()

    async def pour(self: HasChunks, sink: Sink) -> bool:
        while data := await self.chunk():
            if not sink(data):
                return False
        return True


class Answering(Protocol):
    """What answers requests: an HTTP client, or something in this process."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """The answer, its head received. Raises :class:`UpstreamFailed` or :class:`DeadlineExceeded` if none comes."""
        ...


@dataclass(slots=True)
class Usage:
    """Tokens of one call, as the upstream counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reported: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """All that it said of them, which is read when the call is in the ledger."""

    def details(self) -> tuple[int, int, Mapping[str, int] | None]:
        """Cached tokens of the prompt, tokens of reasoning, and what else has a price, by genai-prices' names."""
        if self.reported is None:
            return 0, 0, None
        cached, reasoning, units = token_details(self.reported)
        return min(cached, self.prompt_tokens), min(reasoning, self.completion_tokens), units


@dataclass(slots=True)
class MeasuredUsage(Usage):
    """What the gateway has counted of a call itself, by genai-prices' names: characters, seconds, images."""

    units: Mapping[str, int] = field(default_factory=dict)

    def details(self) -> tuple[int, int, Mapping[str, int] | None]:
        return 0, 0, self.units


class Relay(Protocol):
    """Turns the bytes of an upstream's stream into complete events of OpenAI's wire, as they come."""

    usage: Usage | None
    finished: bool
    """The upstream has marked its answer as complete."""
    error: SageError | None
    """The error that the upstream reported inside its stream, after what :meth:`feed` has returned."""

    def feed(self, data: bytes) -> bytes:
        """The events that ``data`` completes, ready for the client; may be empty."""
        ...

    def close(self) -> bytes:
        """What remains to be sent at the end of the upstream's stream; raises if the answer is incomplete."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start a child process that serves one model. The model's owner starts it, never a request.

    Once it serves, the child prints one line of JSON on stdout: ``{"base_url": "http://127.0.0.1:…"}``, with
    ``"socket"`` where it listens on a Unix socket and ``"health"`` where its health check is not at ``/health``. A
    failure is ``{"error": "…"}``. It takes its key from the environment variable ``SAGE_ENGINE_KEY``.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 120.0
    slots: int | None = None
    """How many requests it computes at a time; ``None`` means that this is its own matter."""
    memory: int | None = None
    """Bytes that it is estimated to take; ``None`` means unknown until it serves."""


class RunningEngine(Protocol):
    """What a model needs of its engine, such as :class:`sage.middleware.engines.process.Engine`."""

    exited: asyncio.Future[int]

    @property
    def log_tail(self) -> tuple[str, ...]: ...

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes whose memory is the model's; empty if the model has no process of its own."""
        ...

    async def start(self) -> Endpoint: ...

    async def health(self, within: float) -> int:
        """The status of its health check; 0 if there is no answer ``within`` that many seconds."""
        ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull; ``completed`` of ``total`` bytes where the step counts any."""

    status: str
    completed: int | None = None
    total: int | None = None
    model: str | None = None
    """The public name that the pulled model got, in the last step; ``None`` where the caller named it."""


class ModelFileHost(Protocol):
    """Models of files on this machine that are pulled, added and removed while the gateway runs."""

    def names(self) -> frozenset[str]:
        """The models that there are now, also those that another process has added."""
        ...

    def pull(
        self, source: str, accept: Callable[[str], str], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[PullProgress, None]:
        """Fetches the model that ``source`` names at a hub; the last step has its public name.

        ``accept`` takes the name that it would get, and returns the one that it gets, or raises. ``options`` say how
        its engine is started.
        """
        ...

    async def remove(self, name: str) -> None:
        """Removes the model, and what was pulled for it."""
        ...


class ModelHost(Protocol):
    """A server that loads and unloads its models itself: Ollama, or a vLLM that can sleep. No request passes here."""

    async def loaded(self) -> Mapping[str, Mapping[str, Any]]:
        """The models in its memory now, by its own names, each with what the server reports of it."""
        ...

    async def load(self, model: str, *, pin: bool = False) -> None:
        """Returns once ``model`` is in memory; with ``pin`` the server keeps it there."""
        ...

    async def unload(self, model: str) -> None: ...

    def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Fetches ``model``; raises :class:`sage.errors.PermissionDenied` unless the configuration allows it."""
        ...

    async def show(self, model: str) -> Mapping[str, Any]:
        """The server's own description of ``model``."""
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
    """Loads and unloads models at the vendor's server; ``None`` if the vendor has no such operation."""
    model_files: ModelFileHost | None
    """Models of files beside the configuration; ``None`` if this provider has none."""

    native_answers: frozenset[str]
    """The wires (:attr:`Native.kind`) that it answers in as well: for a call with such a request, :meth:`decode` and
    :meth:`relay` return the vendor's own answer under the public model name."""

    reads_marks: bool
    """Whether it reads ``cache_control`` of parts and tools, and ``thinking_blocks`` and ``is_error`` of messages, in
    OpenAI's shape: others refuse them, or do not know them."""
    tokenizes: frozenset[TokenForm]
    """What ``TOKENIZE`` counts there; empty means that it has no tokenizer."""

    can_sleep: bool
    """Whether it may be :attr:`asleep`."""

    @property
    def asleep(self) -> bool:
        """The gateway has sent its server to sleep, so a request has to :meth:`wake` it first."""
        ...

    async def wake(self) -> None:
        """Returns once its server is awake; concurrent callers share one call."""
        ...

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        """The vendor's request for ``call``.

        Raises :class:`sage.errors.Unsupported` for what the vendor cannot do, unless ``target.drop_unsupported``.
        """
        ...

    def decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """The answer in the operation's own shape, under the public model name, made of the vendor's answer."""
        ...

    def relay(self, call: ModelCall) -> Relay:
        """The translator of one stream."""
        ...

    def follow_up(self, request: UpstreamRequest, response: UpstreamResponse) -> UpstreamRequest | None:
        """What asks for the answer to ``request`` that comes later, as ``response`` (202) says; ``None`` means that the
        vendor has no such thing."""
        ...

    def learn(self, model: str, omitted: str) -> None:
        """The server has answered for ``model`` once ``omitted`` was left out: it is never sent again."""
        ...

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        """Our error for an upstream's error response; it never holds one of our secrets."""
        ...

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        """How to start the engine of that deployment; ``None`` if it has no engine of its own.

        Raises :class:`sage.errors.NotFound` for an unknown model.
        """
        ...

    def known_models(self) -> tuple[str, ...]:
        """The models that it can serve, as far as it knows them without a request."""
        ...

    def models_url(self) -> str | None:
        """The URL whose answer lists its models; ``None`` if there is none."""
        ...

    def model_names(self, body: Any) -> frozenset[str]:
        """The models in the parsed answer of :meth:`models_url`; empty if that is not a list of models."""
        ...

    def context(self, model: str) -> int | None:
        """How many tokens a question to ``model`` and its answer may have together; ``None`` means unknown here."""
        ...

    def reads_effort(self, model: str) -> bool:
        """Whether ``reasoning_effort`` is a field that ``model`` takes; others refuse it, or read it as a hint."""
        ...

    def complaints(self) -> list[tuple[str, str]]:
        """Its configured models that cannot serve, each with the reason."""
        ...

    def missing(self, model: str) -> str | None:
        """Why a configured ``model`` cannot serve; ``None`` if it can, or is not configured."""
        ...
