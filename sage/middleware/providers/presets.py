"""Vendors that speak OpenAI's wire, each a row of :data:`sage.middleware.settings.kinds.PRESETS`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sage.middleware.providers.base import RELAYED, Endpoint, ModelCall, Operation, UpstreamModel, UpstreamRequest
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.openai_fields import FOREIGN_SAMPLING
from sage.middleware.providers.vendor import has_effect
from sage.middleware.settings.kinds import KINDS, Preset
from sage.middleware.settings.providers import RemoteProvider


class PresetProvider(OpenAIProvider):
    """OpenAI's wire without the operations and fields that the vendor's row excludes."""

    _documented: Mapping[Operation, frozenset[str]] = {}

    def __init__(self, name: str, settings: RemoteProvider, preset: Preset | None = None) -> None:
        """``preset`` is the row of the vendor; ``None`` means the one of ``settings.kind``."""
        if preset is None:
            row = KINDS[settings.kind]
            assert isinstance(row, Preset)
            preset = row
        super().__init__(name, settings)
        if settings.stream_options is None:
            self._requests_usage = not preset.always_streams_usage
        paths = {operation: f"/{operation}" for operation in map(Operation, preset.operations)}
        self.paths = {operation: path for operation, path in paths.items() if operation not in RELAYED}
        self.relayed = {operation: path for operation, path in paths.items() if operation in RELAYED}
        self._foreign = FOREIGN_SAMPLING.difference(preset.sampling)
        if "repetition_penalty" in preset.sampling:
            self._aliases = {"repeat_penalty": "repetition_penalty"}
        self._unsupported = [(field, value) for field, _, value in (text.partition(":") for text in preset.unsupported)]

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        if call.native is not None and call.native.kind in self.native_answers:
            return super().encode(call, target, endpoint)
        has_it = call.operation in self.paths or call.operation in self.relayed
        dropped = set(self._unsupported_in(call.body)) if has_it else set()
        for field, value in dropped:
            if has_effect(field, call.body[field]):
                self._cannot(target, field, f" with '{value}'" if value else "")
        if dropped:
            fields = {field for field, _ in dropped}
            call = replace(call, body={name: value for name, value in call.body.items() if name not in fields})
        return super().encode(call, target, endpoint)

    def _drop(self, body: dict[str, Any], operation: Operation) -> None:
        for field in self._foreign.intersection(body):
            del body[field]

    def _unsupported_in(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for field, value in self._unsupported:
            requested = body.get(field)
            if requested is not None and (not value or value == _choice(requested)):
                yield field, value


def _choice(value: Any) -> Any:
    """What a field with a choice is set to: the word itself, or the ``type`` of an object."""
    return value.get("type") if isinstance(value, dict) else value
