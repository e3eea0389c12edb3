"""What a provider is: a set of pure translation functions between OpenAI's wire and a vendor's, and a few facts.

Every surface speaks OpenAI's wire to the providers: a :class:`Call` carries a parsed body in OpenAI's shape, and what
comes back is OpenAI's JSON or OpenAI's server-sent events, whatever the vendor's own wire is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from sage.errors import SageError
from sage.middleware.settings import Timeouts

MAX_NAME = 256
"""The longest name of a model, in characters."""


class Operation(StrEnum):
    """What is asked of a model; the value is its path below OpenAI's ``/v1``."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


@dataclass(slots=True)
class Call:
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
    ends: float = math.inf
    """When the attempt that runs has had its whole time (``time.monotonic``): whoever watches it cancels its task."""
    overdue: bool = False
    """It was cancelled for that."""

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
    """Where an upstream listens: ``base_url`` without a trailing slash, and the headers that open it."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP request to an upstream, ready to send; ``provider`` is its name, for errors."""

    provider: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeouts: Timeouts


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

    The child prints one line of JSON on stdout, ``{"base_url": "http://127.0.0.1:…"}``, once it serves, and a failure
    as ``{"error": "…"}``; it takes its key from the environment variable ``SAGE_ENGINE_KEY``.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 120.0


class Provider(Protocol):
    """One configured provider: ``openai``, ``east``, ``local``…"""

    name: str
    kind: str
    timeouts: Timeouts
    max_concurrency: int | None
    retries: int

    def encode(self, call: Call, model: str, endpoint: Endpoint) -> UpstreamRequest:
        """The vendor's request for ``call``; raises :class:`sage.errors.InvalidRequest` for what it cannot do."""
        ...

    def decode(self, call: Call, body: bytes) -> tuple[bytes, Usage | None]:
        """OpenAI's answer under the public model name from the vendor's whole answer."""
        ...

    def relay(self, call: Call) -> Relay:
        """The translator of one stream."""
        ...

    def refuse(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        """The error of ours for an upstream's refusal; never with a secret of ours in it."""
        ...

    def endpoint(self) -> Endpoint | None:
        """Where it listens; none if each model has an engine of its own."""
        ...

    def engine(self, model: str) -> EngineSpec | None:
        """How to start the engine of ``model``; none if the provider has no engines.

        Raises :class:`sage.errors.NotFound` for a model that it does not know.
        """
        ...

    def known_models(self) -> tuple[str, ...]:
        """The models it knows without asking anyone, and can serve."""
        ...

    def complaints(self) -> list[tuple[str, str]]:
        """Its own models that cannot serve, and why."""
        ...

    def missing(self, model: str) -> str | None:
        """Why it cannot serve ``model`` though it is configured with it; none if that is not so."""
        ...
