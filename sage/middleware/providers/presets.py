"""Vendors that speak OpenAI's wire, each a row of :data:`sage.middleware.settings.vendors.presets.PRESETS`."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.base import (
    RELAYED,
    Endpoint,
    ModelCall,
    Operation,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.openai_fields import FOREIGN_SAMPLING
from sage.middleware.providers.vendor import has_effect
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.providers import RemoteProvider
from sage.middleware.settings.vendors.kind import Preset

_LETTERS = string.digits + string.ascii_letters
_CODED = "base_resp"


class PresetProvider(OpenAIProvider):
    """OpenAI's wire without the operations and fields that the vendor's row excludes."""

    _documented: Mapping[Operation, frozenset[str]] = {}

    def __init__(self, name: str, settings: RemoteProvider, preset: Preset | None = None) -> None:
        """``preset`` is the row of the vendor; ``None`` means the one of ``settings.kind``."""
        if preset is None:
            row = KINDS[settings.kind]
            assert isinstance(row, Preset)
            preset = row
        self._preset = preset
        super().__init__(name, settings)
        if settings.stream_options is None:
            self._requests_usage = not preset.always_streams_usage
        paths = {operation: f"/{operation}" for operation in map(Operation, preset.operations)}
        self.paths = {operation: path for operation, path in paths.items() if operation not in RELAYED}
        self.relayed = {operation: path for operation, path in paths.items() if operation in RELAYED}
        self._foreign = FOREIGN_SAMPLING.difference(preset.sampling)
        aliases = dict(preset.renames)
        if "repetition_penalty" in preset.sampling:
            aliases["repeat_penalty"] = "repetition_penalty"
        self._aliases = aliases
        self._unsupported = _parsed(preset.unsupported)
        self._unsupported_by = [(pattern, _parsed(fields)) for pattern, fields in preset.unsupported_by]
        differences = (preset.refused_hints, preset.refused_in_messages, preset.call_id_length, preset.no_thinking)
        self._is_plain = not any(differences)

    def models_url(self) -> str | None:
        return super().models_url() if self._preset.lists_models else None

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        native, preset = call.native, self._preset
        if native is not None and native.kind in self.native_answers:
            if preset.refused_in_responses:
                call = replace(call, native=replace(native, body=_without(native.body, preset.refused_in_responses)))
            return super().encode(call, target, endpoint)
        has_it = call.operation in self.paths or call.operation in self.relayed
        dropped = list(self._unsupported_in(call.body, target.model)) if has_it else []
        for field, value in dropped:  # the first in the row is told of
            if has_effect(field, call.body[field]):
                self._cannot(target, field, f" with '{value}'" if value else "")
        for field, values in self._fixed_in(call.body, target.model) if has_it else ():
            only = " or ".join(map(str, values))
            self._cannot(target, field, f" other than {only} in '{target.model}'")
            dropped.append((field, ""))
        if dropped:
            fields = {field for field, _ in dropped}
            call = replace(call, body=_without(call.body, fields))
        if not self._is_plain:
            call = self._with_differences(call)
        if preset.streams_only and not call.stream and self._answers_in_streams(call, target.model):
            call = replace(call, body={**call.body, "stream": True}, stream=True)
        return super().encode(call, target, endpoint)

    def _answers_in_streams(self, call: ModelCall, model: str) -> bool:
        """Whether a whole answer has to be asked for as a stream, which :meth:`decode` then gathers."""
        if call.operation is not Operation.CHAT:
            return False
        patterns = self._preset.streams_only
        return call.body.get("enable_thinking") is True or any(fnmatchcase(model, pattern) for pattern in patterns)

    def _with_differences(self, call: ModelCall) -> ModelCall:
        """``call`` with the fields and ids that the vendor wants."""
        preset, body = self._preset, call.body
        changed = _without(body, preset.refused_hints)
        if call.not_to_think and call.operation is Operation.CHAT:
            changed = {**preset.no_thinking, **changed}
        messages = body.get("messages")
        if isinstance(messages, list) and (preset.refused_in_messages or preset.call_id_length is not None):
            changed["messages"] = [self._message(message) for message in messages]
        return replace(call, body=changed)

    def _message(self, message: Any) -> Any:
        preset = self._preset
        if preset.refused_in_messages and isinstance(message, dict):
            message = _without(message, preset.refused_in_messages)
        return message if preset.call_id_length is None else _with_short_ids(message, preset.call_id_length)

    def _drop(self, body: dict[str, Any], operation: Operation) -> None:
        for field in self._foreign.intersection(body):
            del body[field]

    def _unsupported_in(self, body: Mapping[str, Any], model: str) -> Iterator[tuple[str, str]]:
        of_model = next((fields for pattern, fields in self._unsupported_by if fnmatchcase(model, pattern)), [])
        for field, value in (*self._unsupported, *of_model):
            requested = body.get(field)
            if requested is not None and (not value or value == _choice(requested)):
                yield field, value

    def _fixed_in(self, body: Mapping[str, Any], model: str) -> Iterator[tuple[str, tuple[float, ...]]]:
        """The numbers in ``body`` that ``model`` does not take, and what it takes in their place."""
        fixed = next((numbers for pattern, numbers in self._preset.fixed_by if fnmatchcase(model, pattern)), {})
        for field, values in fixed.items():
            if body.get(field) is not None and body[field] not in values:
                yield field, values

    # Errors in answers of status 200

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        if self._preset.error_status and _CODED.encode() in body:
            error = self._coded_error(self._object(call, body))
            if error is not None:
                raise error
        return super()._decode(call, body)

    def _transform(self, call: ModelCall) -> Callable[[dict[str, Any]], None] | None:
        return self._check_code if self._preset.error_status else None

    def _check_code(self, chunk: dict[str, Any]) -> None:
        error = self._coded_error(chunk)
        if error is not None:
            raise error

    def _coded_error(self, answer: Mapping[str, Any]) -> SageError | None:
        """The error that the vendor's own code in ``answer`` tells of."""
        told = answer.get(_CODED)
        code = told.get("status_code") if isinstance(told, dict) else None
        if not isinstance(told, dict) or not isinstance(code, int) or code == 0:
            return None
        detail = {"message": str(told.get("status_msg") or "no reason was given"), "code": str(code)}
        return self.make_error(self._preset.error_status.get(code, 502), {"error": detail}, {})


def _parsed(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(field, value) for field, _, value in (text.partition(":") for text in texts)]


def _without(fields: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _choice(value: Any) -> Any:
    """What a field with a choice is set to: the word itself, or the ``type`` of an object."""
    return value.get("type") if isinstance(value, dict) else value


def _with_short_ids(message: Any, length: int) -> Any:
    """``message`` with ids of tool calls of that length. The same id always becomes the same one."""
    if not isinstance(message, dict) or not ("tool_calls" in message or "tool_call_id" in message):
        return message
    changed = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = short_id(message["tool_call_id"], length)
    if isinstance(message.get("tool_calls"), list):
        changed["tool_calls"] = [
            {**each, "id": short_id(each["id"], length)}
            if isinstance(each, dict) and isinstance(each.get("id"), str)
            else each
            for each in message["tool_calls"]
        ]
    return changed


def short_id(text: str, length: int) -> str:
    """An id of ``length`` letters and digits: ``text`` itself if it is one, else made of its hash."""
    if len(text) == length and text.isascii() and text.isalnum():
        return text
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    letters = ""
    for _ in range(length):
        number, digit = divmod(number, len(_LETTERS))
        letters += _LETTERS[digit]
    return letters
