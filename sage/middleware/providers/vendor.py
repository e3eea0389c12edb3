"""The base of all adapters: a provider's name, keys and endpoints, and its errors for what it cannot or must not do."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import orjson
from multidict import CIMultiDict

from sage.errors import InvalidRequest, SageError, Unsupported, UpstreamFailed
from sage.middleware.providers.base import (
    Endpoint,
    EngineSpec,
    Form,
    ModelCall,
    ModelFileHost,
    ModelHost,
    Operation,
    Relay,
    TokenForm,
    UpstreamModel,
    UpstreamRequest,
    UpstreamResponse,
    Usage,
)
from sage.middleware.providers.proxies import environment_proxy
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.chunks import answer_events
from sage.middleware.providers.wire.errors import first_error, status_of_error, upstream_error
from sage.middleware.providers.wire.event_bytes import is_stream
from sage.middleware.providers.wire.gathering import AnswerGathering
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.providers import ProviderCommon, RemoteProvider
from sage.middleware.settings.settings import DeploymentSettings

# All headers of a request, so that the HTTP client adds none: compression would hold back the chunks of a stream.
WIRE_HEADERS = {
    "User-Agent": "sage-middleware",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
# Fields that run code or templates upstream, or redirect the call: never passed on, for no caller.
DENIED = frozenset(
    {
        "api_base",
        "api_key",
        "base_url",
        "chat_template",
        "extra_headers",
        "logits_processors",
        "lora",
        "lora_request",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "ec_transfer_params",
        "kv_transfer_params",
        "priority",
        "prompt_embeds",
        "request_id",
        "id_slot",
        "slot_id",
        "vllm_xargs",
    }
)
# Fields that have the vendor search the web or call other servers, beside the hosted tools in `tools`.
_HOSTED_FIELDS = frozenset(
    {
        "browse",
        "compound_custom",
        "connectors",
        "enable_browsing",
        "enable_enhancement",
        "enable_search",
        "google_search",
        "grounding",
        "mcp_servers",
        "plugins",
        "search_options",
        "search_parameters",
        "tool_servers",
        "url_context",
        "web_fetch",
        "web_search",
        "web_search_options",
    }
)
_LOOKED_AT = _HOSTED_FIELDS | {"chat_template_kwargs", "tools"}
# Tools that the caller runs, and tools at the vendor that reach nothing but what is stored there: never refused here.
_FETCHES_NOTHING = (
    *("function", "custom", "local_shell", "apply_patch", "computer*", "bash*", "text_editor*"),
    *("retrieval", "file_search", "code_interpreter", "code_execution*", "image_generation"),
    *("memory_2*", "browser_toolset_*", "tool_search_tool_*"),  # Anthropic's
)
_FUNCTION_KEYS = frozenset({"function", "parameters", "input_schema", "parameter_definitions"})
# Denied in `chat_template_kwargs`: there they would overrule the server's own arguments for the template's renderer.
_RENDERING = frozenset({"chat_template", "tokenize"})
# OpenAI's fields that do not change the answer: for a vendor that does not have them they are left out.
HINTS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "stream",
        "stream_options",
        "model",
    }
)
# Values of OpenAI's fields that ask for what happens anyway.
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "parallel_tool_calls": True,
    "functions": [],
    "modalities": ["text"],
    "encoding_format": "float",
}


class _UnreadableError(Exception):
    """A body is not JSON, or not by the letter. Never leaves :meth:`Vendor.decode`."""


class Vendor(ABC):
    """The base of every adapter. It has the facts of a provider; each adapter adds the translations."""

    repeatable = False
    """Its calls cost nothing and change nothing: :attr:`UpstreamRequest.retry_on_broken_connection` is set."""
    can_sleep = False
    host: ModelHost | None = None
    model_files: ModelFileHost | None = None
    native_answers: frozenset[str] = frozenset()
    reads_marks = False
    tokenizes: frozenset[TokenForm] = frozenset()

    def __init__(self, name: str, settings: ProviderCommon) -> None:
        self.name = name
        self.kind = settings.kind
        self.timeouts = settings.timeouts
        self.max_concurrency = settings.max_concurrency
        self.retries = settings.retries
        self.endpoints: tuple[Endpoint, ...] = ()
        self._headers = CIMultiDict(WIRE_HEADERS)
        self._headers.update({name: value.get_secret_value() for name, value in settings.headers.items()})
        # A short value of a header is a word, not a secret.
        self._secrets = [v for v in self._headers.values() if len(v) >= 8 and v not in WIRE_HEADERS.values()]
        self._denied = DENIED | frozenset(settings.deny_fields)
        self._hosted_tools = settings.hosted_tools

    def _open(self, base_url: str, settings: RemoteProvider) -> None:
        """Listens at ``base_url``, once for each key."""
        # The longest first: one secret may be a part of another.
        in_query = [value for name, value in parse_qsl(settings.query[1:]) if name != "api-version" and len(value) >= 8]
        self._secrets = sorted({*self._secrets, *settings.keys, *in_query}, key=len, reverse=True)
        base_url = base_url.rstrip("/")
        proxy = self._proxy(base_url, settings)
        self.endpoints = tuple(
            Endpoint(base_url, headers, query=settings.query, proxy=proxy)
            for headers in [self._with_key(key) for key in settings.keys] or [self._headers]
        )

    @staticmethod
    def _proxy(base_url: str, settings: RemoteProvider) -> str | None:
        """The proxy for requests to ``base_url``."""
        if settings.proxy is None:
            return None
        proxy = settings.proxy.get_secret_value()
        return environment_proxy(base_url, os.environ) if proxy == "env" else proxy

    @staticmethod
    def _address(settings: RemoteProvider) -> str:
        """The configured ``base_url``, else that of the kind, without its query and a slash at its end."""
        address = settings.root or KINDS[settings.kind].default_url
        assert address is not None, f"a provider of the kind {settings.kind} needs a base_url"
        return address.rstrip("/")

    def _with_key(self, key: str) -> Mapping[str, str]:
        headers = self._headers.copy()
        headers["Authorization"] = f"Bearer {key}"
        return headers

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        return None

    @property
    def asleep(self) -> bool:
        return False

    async def wake(self) -> None:
        return None

    def known_models(self) -> tuple[str, ...]:
        return ()

    def context(self, model: str) -> int | None:
        return None

    def reads_effort(self, model: str) -> bool:
        return False

    def complaints(self) -> list[tuple[str, str]]:
        return []

    def missing(self, model: str) -> str | None:
        return None

    def follow_up(self, request: UpstreamRequest, response: UpstreamResponse) -> UpstreamRequest | None:
        return None

    def learn(self, model: str, omitted: str) -> None:
        return None

    def models_url(self) -> str | None:
        return self.endpoints[0].url("/models") if self.endpoints else None

    def model_names(self, body: Any) -> frozenset[str]:
        """The names in OpenAI's list of models."""
        entries = body.get("data") if isinstance(body, dict) else None
        names = (entry.get("id") for entry in objects(entries))
        return frozenset(name for name in names if isinstance(name, str))

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        return upstream_error(self.name, status, body, headers, self._secrets)

    def _check_denied(self, body: Mapping[str, Any]) -> None:
        """Raises :class:`InvalidRequest` for a field that is never passed on."""
        if not self._denied.isdisjoint(body):
            self._refuse_field(sorted(self._denied.intersection(body))[0])
        if _LOOKED_AT.isdisjoint(body):
            return
        options = body.get("chat_template_kwargs")
        if isinstance(options, dict) and not _RENDERING.isdisjoint(options):
            self._refuse_field(sorted(_RENDERING.intersection(options))[0])
        if "tools" in body or not _HOSTED_FIELDS.isdisjoint(body):
            self._check_hosted_tools(body)

    def _check_hosted_tools(self, body: Mapping[str, Any]) -> None:
        """Raises :class:`InvalidRequest` for a tool that runs at the vendor and fetches, unless it is allowed."""
        for index, tool in enumerate(objects(body.get("tools"))):
            self._check_hosted_tool(_tool_type(tool), f"tools[{index}]")
        for field in sorted(_HOSTED_FIELDS.intersection(body)):
            if body[field] is not None and body[field] is not False:
                self._check_hosted_tool(field, field)

    def _check_hosted_tool(self, kind: str, where: str) -> None:
        if not any(fnmatchcase(kind, pattern) for pattern in (*_FETCHES_NOTHING, *self._hosted_tools)):
            raise InvalidRequest(
                f"{where}: '{kind[:100]}' fetches from elsewhere, which the provider '{self.name}' does not allow; "
                f"leave it out, or have an administrator add it to llm.providers.{self.name}.hosted_tools",
                param=where,
                code="hosted_tool_not_allowed",
            )

    def _refuse_field(self, field: str) -> NoReturn:
        raise InvalidRequest(
            f"'{field}' is never passed on to the provider '{self.name}'; leave it out",
            param=field,
            code="field_not_allowed",
        )

    def _post(self, url: str, endpoint: Endpoint, body: Mapping[str, Any]) -> UpstreamRequest:
        """The request that carries ``body`` as JSON."""
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError:
            data = self._mended(body)
        return UpstreamRequest(
            self.name,
            "POST",
            url,
            endpoint.headers,
            data,
            self.timeouts,
            endpoint.socket,
            proxy=endpoint.proxy,
            retry_on_broken_connection=self.repeatable,
        )

    def _post_form(self, url: str, endpoint: Endpoint, form: Form, model: str) -> UpstreamRequest:
        """The request that carries ``form`` as it comes."""
        headers = CIMultiDict(endpoint.headers)
        headers["Content-Type"] = form.content_type
        upload = form.open(model, self._check_denied)
        request = UpstreamRequest(self.name, "POST", url, headers, b"", self.timeouts, endpoint.socket)
        request.proxy, request.upload = endpoint.proxy, upload
        return request

    @staticmethod
    def _mended(body: Mapping[str, Any]) -> bytes:
        """``body`` as JSON, with U+FFFD for halves of surrogate pairs, which callers in Python may send."""
        try:
            return orjson.dumps(lenient_json.mend(copy.deepcopy(dict(body))))
        except (orjson.JSONEncodeError, RecursionError) as exc:
            raise InvalidRequest(f"the body cannot be passed on: {exc}") from exc

    def _cannot(self, target: UpstreamModel, field: str, why: str = "") -> None:
        """Raises :class:`Unsupported` for ``field``, unless the model is to leave out what its vendor cannot do."""
        if not target.drop_unsupported:
            raise Unsupported(
                f"{self._described} does not support '{field}'{why}; leave it out, or have an administrator set "
                "drop_unsupported: true for the model",
                param=field,
            )

    @property
    def _described(self) -> str:
        kind = "" if self.kind == self.name else f" ({self.kind})"
        return f"the provider '{self.name}'{kind}"

    def _no_such_operation(self, call: ModelCall) -> Unsupported:
        """The error for an operation that the vendor does not have."""
        return Unsupported(
            f"{self._described} has no {call.operation}; ask another model",
            param="model",
            code="unsupported_operation",
        )

    def _malformed(self, call: ModelCall) -> UpstreamFailed:
        return UpstreamFailed(
            f"the provider '{self.name}' answered with something that is no answer to {call.operation}",
            code="upstream_nonsense",
        )

    def decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """The answer in the operation's own shape, made of the vendor's, which need not be JSON by the letter."""
        try:
            return self._decode(call, body)
        except _UnreadableError:
            if call.operation in (Operation.CHAT, Operation.COMPLETIONS) and is_stream(body):
                return self._gathered(call, body)
            return self._decode(call, self._readable(call, body))

    @abstractmethod
    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """What :meth:`decode` is for; raises what :meth:`_object` raises."""

    @abstractmethod
    def relay(self, call: ModelCall) -> Relay:
        """The translator of one stream."""

    def _readable(self, call: ModelCall, body: bytes) -> bytes:
        """``body``, which orjson cannot read, as JSON that it can."""
        try:
            return orjson.dumps(lenient_json.read(body))
        except (ValueError, orjson.JSONEncodeError) as exc:
            raise self._malformed(call) from exc

    def _gathered(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """The answer, and the usage, in a stream that came though a whole answer was asked for."""
        relay = self.relay(replace(call, stream=True, wants_usage=True))
        events = relay.feed(body)
        if relay.error is None and not relay.finished:
            events += relay.close()
        if relay.error is not None:
            raise relay.error
        gathering = AnswerGathering(chat=call.operation is Operation.CHAT)
        for chunk in payloads(events):
            gathering.add(chunk)
        answer = gathering.answer()
        if not answer["choices"]:
            raise self._malformed(call)
        return orjson.dumps(answer), relay.usage

    def _answer_as_stream(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        """The events, and the usage, of an answer that came whole though a stream was asked for."""
        decoded, usage = self.decode(call, body)
        answer = orjson.loads(decoded)
        if not answer["choices"]:
            raise self._malformed(call)
        chat = call.operation is Operation.CHAT
        return answer_events(answer, keep_usage=call.wants_usage, chat=chat), usage

    def _object(self, call: ModelCall, body: bytes) -> dict[str, Any]:
        """``body`` as a JSON object; raises :class:`UpstreamFailed` for anything else that is JSON."""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise _UnreadableError from exc
        answer = answer if isinstance(answer, dict) else first_error(answer)
        if not isinstance(answer, dict):
            raise self._malformed(call)
        return answer

    def _stream_error(self, error: Any) -> SageError:
        """Our error for one inside a response of status 200; its ``code`` or ``type`` tells the real status."""
        detail = error if isinstance(error, dict) else {"message": str(error)}
        return self.make_error(status_of_error(detail), {"error": detail}, {})


def has_effect(field: str, value: Any) -> bool:
    """Whether ``value`` changes the answer: ``n: 1`` is what a vendor without ``n`` does, too."""
    return field not in _NEUTRAL or value != _NEUTRAL[field]


def _tool_type(tool: Mapping[str, Any]) -> str:
    """What a tool is: its ``type``, or else, as in Google's API, its only key."""
    kind = tool.get("type")
    if isinstance(kind, str):
        return kind
    return "function" if not tool or not _FUNCTION_KEYS.isdisjoint(tool) else next(iter(tool))
