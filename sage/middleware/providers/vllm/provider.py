"""vLLM: OpenAI's wire at a running server, or at servers that the gateway starts itself.

Its own fields (``guided_json``, ``structured_outputs``, ``top_k``, ``min_p``, ``ignore_eos``…) pass through unchanged,
except those that are denied everywhere. Score and rerank have vLLM's shapes below ``/v1``; ``/tokenize`` and
``/detokenize`` are at the server's root.

Source: docs.vllm.ai, *OpenAI-Compatible Server*, *LoRA Adapters*, *Reasoning Outputs*.
"""

from __future__ import annotations

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
    TokenForm,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.vllm.host import VllmHost, root_of
from sage.middleware.providers.wire.messages import content_of
from sage.middleware.settings.providers import VllmSettings
from sage.middleware.settings.settings import DeploymentSettings, ManagedServer

_GATEWAY_ONLY = frozenset(
    {"--api-key", "--host", "--port", "--served-model-name", "--ssl-certfile", "--ssl-keyfile", "--uds"}
)
"""Arguments that only the gateway gives to a managed server."""


class VllmProvider(OpenAIProvider):
    """One vLLM server and its keys, or no server: a deployment with an ``engine`` has a server of its own."""

    paths: Mapping[Operation, str] = {
        Operation.CHAT: "/chat/completions",
        Operation.COMPLETIONS: "/completions",
        Operation.EMBEDDINGS: "/embeddings",
        Operation.RERANK: "/rerank",
        Operation.SCORE: "/score",
        Operation.TOKENIZE: "/tokenize",
        Operation.DETOKENIZE: "/detokenize",
    }
    relayed: Mapping[Operation, str] = {
        Operation.TRANSCRIPTIONS: "/audio/transcriptions",
        Operation.TRANSLATIONS: "/audio/translations",
    }
    _keeps_reasoning = False
    tokenizes: frozenset[TokenForm] = frozenset({"messages", "prompt"})

    _documented: Mapping[Operation, frozenset[str]] = {}
    _aliases: Mapping[str, str] = {"repeat_penalty": "repetition_penalty"}

    def __init__(self, name: str, settings: VllmSettings) -> None:
        Vendor.__init__(self, name, settings)  # not OpenAI's: without base_url there is no server
        self._ask_for_usage(settings)
        self._settings = settings
        self._server: VllmHost | None = None
        if settings.root is not None:
            self._open(self._api_root(settings.root.rstrip("/")), settings)
            self.host = self._server = VllmHost(name, self.endpoints[0], self.timeouts, self.make_error)

    def _api_root(self, base_url: str) -> str:
        """Adds ``/v1`` to an address without a path: OpenAI's wire is below it, never at vLLM's root."""
        return base_url if urlsplit(base_url).path else f"{base_url}/v1"

    can_sleep = True

    @property
    def asleep(self) -> bool:
        return self._server is not None and self._server.asleep

    async def wake(self) -> None:
        if self._server is not None:
            await self._server.wake()

    # The wire

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        if call.not_to_think:
            call = _without_thinking(call)
        if call.form is not None:
            return super().encode(call, target, replace(endpoint, headers=self._opening(endpoint)))
        request = super().encode(_with_reasoning(call), target, endpoint)
        if call.operation in (Operation.TOKENIZE, Operation.DETOKENIZE):
            request.url = endpoint.url(self.paths[call.operation], root_of(endpoint.base_url))
        request.headers = self._opening(endpoint)
        return request

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        if call.operation not in (Operation.TOKENIZE, Operation.DETOKENIZE):
            return super()._decode(call, body)
        answer = self._object(call, body)
        field, kind = ("tokens", list) if call.operation is Operation.TOKENIZE else ("prompt", str)
        if not isinstance(answer.get(field), kind):
            raise self._malformed(call)
        return body, None

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        if status == 404 and isinstance(body, dict) and "error" not in body:  # FastAPI's own: there is no such route
            return Unsupported(
                f"the vLLM server of '{self.name}' does not have this operation: it offers what its model and --runner "
                "(generate or pooling) can do",
                param="model",
                code="unsupported_operation",
            )
        return super().make_error(status, body, headers)

    # Managed servers

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        """How to start the deployment's server, if it has an ``engine``.

        Raises :class:`ConfigError` for arguments that only the gateway gives, :class:`NotFound` if nothing serves it.
        """
        if wanted.lora is not None:
            self._adapter_root(wanted.lora)
            return None  # its base model's server has it
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
            if name in _GATEWAY_ONLY:
                raise ConfigError(
                    f"model '{model}' of the provider '{self.name}': '{name}' is the gateway's to set for a server "
                    "that it starts; take it out of engine.args"
                )
        return engine.args

    def no_server(self, model: str) -> NotFound:
        """The error for a model that no server has."""
        return NotFound(
            f"nothing serves '{model}' of the provider '{self.name}': give its deployment an 'engine', so that the "
            f"gateway starts a server, or the provider the base_url of one (llm.providers.{self.name})",
            param="model",
            code="model_not_found",
        )

    # LoRA adapters

    def adapter(self, name: str) -> Path:
        """The directory of the adapter ``name`` in ``lora_dir``.

        Raises :class:`InvalidRequest` if ``name`` is not a plain name, :class:`NotFound` if there is no such adapter.
        """
        root = self._adapter_root(name)
        directory = (root / name).resolve()
        if directory.parent != root or not (directory / "adapter_config.json").is_file():
            raise NotFound(
                f"the provider '{self.name}' has no LoRA adapter '{name}': in its lora_dir there is no such directory "
                "with an adapter_config.json",
                param="lora",
                code="lora_not_found",
            )
        return directory

    def _adapter_root(self, name: str) -> Path:
        """``lora_dir``, after checking that ``name`` can be the name of a directory in it."""
        root = self._settings.lora_dir
        if root is None:
            raise InvalidRequest(
                f"the provider '{self.name}' has no LoRA adapters: an administrator has to set its lora_dir",
                param="lora",
                code="lora_not_configured",
            )
        if name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
            raise InvalidRequest(
                f"'{name[:100]}' is not the name of a directory; the name of a LoRA adapter is that of its directory "
                "in the provider's lora_dir",
                param="lora",
                code="lora_not_found",
            )
        return root.expanduser().resolve()

    def adapter_request(self, verb: str, endpoint: Endpoint, body: Mapping[str, Any]) -> UpstreamRequest:
        """The request that loads or unloads (``verb``) an adapter at the server behind ``endpoint``."""
        request = self._post(endpoint.url(f"/{verb}_lora_adapter"), endpoint, body)
        request.headers, request.socket = self._opening(endpoint), endpoint.socket
        return request

    def adapters_request(self, endpoint: Endpoint) -> UpstreamRequest:
        """The request for the models and adapters that the server behind ``endpoint`` has."""
        url = endpoint.url("/models")
        headers = self._opening(endpoint)
        return UpstreamRequest(
            self.name, "GET", url, headers, b"", self.timeouts, endpoint.socket, proxy=endpoint.proxy
        )

    def _opening(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The headers for ``endpoint``. That of a managed server has only the key; the others are added here."""
        if "User-Agent" in endpoint.headers:
            return endpoint.headers
        headers = self._headers.copy()
        headers.update(endpoint.headers)
        return headers


def _with_reasoning(call: ModelCall) -> ModelCall:
    """``call`` with the reasoning of earlier answers under vLLM's name, too, and with refusals as text."""
    messages = call.body.get("messages")
    if not isinstance(messages, list) or not any(
        isinstance(m, dict) and ("reasoning_content" in m or m.get("refusal")) for m in messages
    ):
        return call
    sent = [_earlier(message) if isinstance(message, dict) else message for message in messages]
    return replace(call, body={**call.body, "messages": sent})


def _earlier(message: dict[str, Any]) -> dict[str, Any]:
    named = {"reasoning": message["reasoning_content"]} if "reasoning_content" in message else {}
    content = {"content": content_of(message)} if message.get("refusal") else {}
    return {**named, **message, **content}


def _without_thinking(call: ModelCall) -> ModelCall:
    """``call`` with what templates of models that can think are told by; others do not look at it."""
    options = call.body.get("chat_template_kwargs")
    given = options if isinstance(options, dict) else {}
    return replace(
        call, body={**call.body, "chat_template_kwargs": {"enable_thinking": False, "thinking": False, **given}}
    )
