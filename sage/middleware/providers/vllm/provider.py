"""vLLM: OpenAI's wire at a server that is there, or at servers that the gateway starts itself.

Its own fields (``guided_json``, ``structured_outputs``, ``top_k``, ``min_p``, ``ignore_eos``…) pass through unchanged,
less those that are denied everywhere. Score and rerank have vLLM's shapes below ``/v1``; ``/tokenize`` and
``/detokenize`` stand beside it.

Source: docs.vllm.ai, *OpenAI-Compatible Server*, *LoRA Adapters*, *Reasoning Outputs*.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from sage.errors import ConfigError, InvalidRequest, NotFound, SageError, Unsupported
from sage.middleware.providers.base import (
    Endpoint,
    EngineSpec,
    ModelCall,
    Operation,
    Relay,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.vllm.host import VllmHost, root_of
from sage.middleware.providers.wire.sse import EventRelay
from sage.middleware.settings.providers import VllmSettings
from sage.middleware.settings.settings import DeploymentSettings, ManagedServer

_OURS = frozenset({"--api-key", "--host", "--port", "--served-model-name", "--ssl-certfile", "--ssl-keyfile", "--uds"})
"""What the gateway itself tells a managed server."""
_REASONING = re.compile(rb'"reasoning"\s*:')


class VllmProvider(OpenAIProvider):
    """One vLLM server and its keys, or none: each deployment with an ``engine`` has a server of its own."""

    paths: Mapping[Operation, str] = {
        **OpenAIProvider.paths,
        Operation.RERANK: "/rerank",
        Operation.SCORE: "/score",
        Operation.TOKENIZE: "/tokenize",
        Operation.DETOKENIZE: "/detokenize",
    }

    def __init__(self, name: str, settings: VllmSettings) -> None:
        Vendor.__init__(self, name, settings)  # without an address there is no server: never OpenAI's
        self._changes_answers = True
        self._settings = settings
        self._server: VllmHost | None = None
        if settings.base_url is not None:
            self._open(self._api_root(settings.base_url.rstrip("/")), settings)
            self.host = self._server = VllmHost(name, self.endpoints[0], self.timeouts, self.make_error)

    def _api_root(self, base_url: str) -> str:
        """vLLM has nothing of OpenAI's at its root, so a bare address can only mean what is below it."""
        return base_url if urlsplit(base_url).path else f"{base_url}/v1"

    @property
    def asleep(self) -> bool:
        return self._server is not None and self._server.asleep

    async def wake(self) -> None:
        if self._server is not None:
            await self._server.wake()

    # The wire

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        request = super().encode(_with_reasoning(call), target, endpoint)
        if call.operation in (Operation.TOKENIZE, Operation.DETOKENIZE):
            request.url = root_of(endpoint.base_url) + self.paths[call.operation]
        request.headers = self._opening(endpoint)
        return request

    def decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        if call.operation not in (Operation.TOKENIZE, Operation.DETOKENIZE):
            return super().decode(call, body)
        answer = self._object(call, body)
        wanted, kind = ("tokens", list) if call.operation is Operation.TOKENIZE else ("prompt", str)
        if not isinstance(answer.get(wanted), kind):
            raise self._malformed(call)
        return body, None

    def _adjust(self, call: ModelCall, answer: dict[str, Any]) -> None:
        """vLLM says ``reasoning`` where others say ``reasoning_content``."""
        if call.operation is Operation.CHAT:
            for choice in answer["choices"]:
                message = choice["message"]
                if "reasoning" in message and "reasoning_content" not in message:  # some versions say both
                    message["reasoning_content"] = message.pop("reasoning")

    def relay(self, call: ModelCall) -> Relay:
        return ReasoningRelay(
            call.model, keep_usage=call.wants_usage, on_error=self._stream_error, choices=call.answers
        )

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        if status == 404 and isinstance(body, dict) and "error" not in body:  # no route: FastAPI's own 404
            return Unsupported(
                f"the vLLM server of '{self.name}' does not have this operation: it offers what its model and --runner "
                "(generate or pooling) can do",
                param="model",
                code="unsupported_operation",
            )
        return super().make_error(status, body, headers)

    # Servers of the gateway's own

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        """Raises :class:`ConfigError` for arguments that are the gateway's, :class:`NotFound` if nothing serves it."""
        if wanted.lora is not None:
            self._adapter_place(wanted.lora)
            return None  # it lives in its base's server
        if wanted.engine is None:
            if not self.endpoints:
                raise self.no_server(wanted.model)
            return None
        options = {
            "command": self._settings.command,
            "model": wanted.model,
            "args": self._arguments(wanted.model, wanted.engine),
            "environment": self._settings.environment,
            "adapters": self._settings.lora_dir is not None,
        }
        return EngineSpec(
            command=(sys.executable, "-m", "sage.middleware.providers.vllm.engine"),
            environment={"SAGE_ENGINE_OPTIONS": orjson.dumps(options).decode()},
            start_timeout=self._settings.start_timeout,
            memory=wanted.engine.memory,
        )

    def _arguments(self, model: str, engine: ManagedServer) -> tuple[str, ...]:
        for argument in engine.args:
            name = argument.partition("=")[0].replace("_", "-")
            if name in _OURS:
                raise ConfigError(
                    f"model '{model}' of the provider '{self.name}': '{name}' is the gateway's to say to a server "
                    "that it starts; take it out of engine.args"
                )
        return engine.args

    def no_server(self, model: str) -> NotFound:
        """For a model that nothing serves."""
        return NotFound(
            f"nothing serves '{model}' of the provider '{self.name}': give its deployment an 'engine', so that the "
            f"gateway starts a server, or the provider the base_url of one (llm.providers.{self.name})",
            param="model",
            code="model_not_found",
        )

    # LoRA adapters

    def adapter(self, name: str) -> Path:
        """The directory of the adapter ``name``: one that stands in ``lora_dir``.

        Raises :class:`InvalidRequest` for what is no plain name, :class:`NotFound` for what is no adapter there.
        """
        root = self._adapter_place(name)
        found = (root / name).resolve()
        if found.parent != root or not (found / "adapter_config.json").is_file():
            raise NotFound(
                f"the provider '{self.name}' has no LoRA adapter '{name}': in its lora_dir there is no such directory "
                "with an adapter_config.json",
                param="lora",
                code="lora_not_found",
            )
        return found

    def _adapter_place(self, name: str) -> Path:
        """``lora_dir``, if ``name`` can be one in it."""
        place = self._settings.lora_dir
        if place is None:
            raise InvalidRequest(
                f"the provider '{self.name}' has no LoRA adapters: an administrator has to set its lora_dir",
                param="lora",
                code="lora_not_configured",
            )
        if name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
            raise InvalidRequest(
                f"'{name[:100]}' is no plain name of a directory; a LoRA adapter is named as it stands in the "
                "provider's lora_dir",
                param="lora",
                code="lora_not_found",
            )
        return place.expanduser().resolve()

    def adapter_request(self, verb: str, endpoint: Endpoint, body: Mapping[str, Any]) -> UpstreamRequest:
        """``load`` or ``unload`` at the server behind ``endpoint``."""
        request = self._post(f"{endpoint.base_url}/{verb}_lora_adapter", endpoint, body)
        request.headers, request.socket = self._opening(endpoint), endpoint.socket
        return request

    def adapters_request(self, endpoint: Endpoint) -> UpstreamRequest:
        """Asks which models and adapters it serves."""
        url = f"{endpoint.base_url}/models"
        headers = self._opening(endpoint)
        return UpstreamRequest(self.name, "GET", url, headers, b"", self.timeouts, endpoint.socket)

    def _opening(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The headers that open ``endpoint``: one that the gateway started has no more than its key."""
        if "User-Agent" in endpoint.headers:
            return endpoint.headers
        headers = self._headers.copy()
        headers.update(endpoint.headers)
        return headers


def _with_reasoning(call: ModelCall) -> ModelCall:
    """What an earlier answer thought, under vLLM's name for it too."""
    messages = call.body.get("messages")
    if not isinstance(messages, list) or not any(isinstance(m, dict) and "reasoning_content" in m for m in messages):
        return call
    told = [
        {"reasoning": m["reasoning_content"], **m} if isinstance(m, dict) and "reasoning_content" in m else m
        for m in messages
    ]
    return replace(call, body={**call.body, "messages": told})


class ReasoningRelay(EventRelay):
    """Says ``reasoning_content`` where vLLM says ``reasoning``; the bytes ``"reasoning":`` can only be a key."""

    def feed(self, data: bytes) -> bytes:
        events = super().feed(data)
        if b'"reasoning"' not in events or b'"reasoning_content"' in events:  # some versions say both
            return events
        return _REASONING.sub(b'"reasoning_content":', events)
