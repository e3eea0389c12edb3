"""The input of a batch, checked line by line: what is wrong with it in OpenAI's words, or the items of its job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from sage.errors import InvalidRequest
from sage.middleware.gateway.jobs.lines import InvalidLines, LineFault, LineLimits, LineReader, LineSink
from sage.middleware.providers.base import MAX_NAME

MOST_FAULTS = 100
"""Errors of a batch that are listed."""
_PIECE = 2**20  # bytes
_MAX_CUSTOM_ID = 512
_FIELDS = frozenset({"custom_id", "method", "url", "body"})
_CODES = {"invalid_json": "invalid_json_line", "no_lines": "empty_file"}
"""Ours -> OpenAI's."""


class BatchInput:
    """Checks the input of a batch for ``endpoint``, and writes ``{"custom_id", "body"}`` a line to ``sink``."""

    def __init__(self, endpoint: str, sink: LineSink, limits: LineLimits) -> None:
        self._endpoint = endpoint
        self._reader = LineReader(self._check, sink, limits, most_faults=MOST_FAULTS)
        self._custom_ids: set[str] = set()
        self.models: set[str] = set()
        """The models that it asks."""

    def read(self, file: BinaryIO) -> list[dict[str, Any]]:
        """Reads all of ``file``; returns the first errors in OpenAI's shape, none if it is good. Blocks."""
        try:
            while piece := file.read(_PIECE):
                self._reader.feed(piece)
            self._reader.end()
        except InvalidLines as exc:
            return [_listed(fault) for fault in exc.faults]
        except InvalidRequest as exc:
            return [{"code": _CODES.get(exc.code, exc.code), "message": exc.message, "param": exc.param, "line": None}]
        return []

    @property
    def total(self) -> int:
        """How many items there are."""
        return self._reader.items

    def _check(self, line: dict[str, Any], _: int) -> Sequence[dict[str, Any]]:
        custom_id = self._check_custom_id(line)
        if unknown := sorted(line.keys() - _FIELDS):
            raise InvalidRequest(
                f"'{unknown[0][:64]}' is no field of a line; it has custom_id, method, url and body",
                param=unknown[0][:64],
                code="unknown_parameter",
            )
        if _required(line, "method") != "POST":
            raise InvalidRequest("'method' must be POST", param="method", code="invalid_method")
        if _required(line, "url") != self._endpoint:
            raise InvalidRequest(
                f"'url' must be the batch's endpoint, which is '{self._endpoint}'", param="url", code="mismatched_url"
            )
        body = _required(line, "body")
        if not isinstance(body, dict):
            raise InvalidRequest("'body' must be an object", param="body", code="invalid_body")
        self._check_body(body)
        return [{"custom_id": custom_id, "body": body}]

    def _check_custom_id(self, line: dict[str, Any]) -> str:
        custom_id = _required(line, "custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_CUSTOM_ID:
            raise InvalidRequest(
                f"'custom_id' must be a text of 1 to {_MAX_CUSTOM_ID} characters",
                param="custom_id",
                code="invalid_custom_id",
            )
        if custom_id in self._custom_ids:
            raise InvalidRequest(
                f"the custom_id '{custom_id[:100]}' is on a line before this one, too; each line needs its own",
                param="custom_id",
                code="duplicate_custom_id",
            )
        self._custom_ids.add(custom_id)
        return custom_id

    def _check_body(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if not isinstance(model, str) or not 0 < len(model) <= MAX_NAME:
            code = "missing_required_parameter" if model is None else "invalid_model"
            raise InvalidRequest("'body.model' must name a model", param="body.model", code=code)
        if body.get("stream"):
            raise InvalidRequest(
                "'body.stream' must not be set: the answers of a batch are in its output file",
                param="body.stream",
                code="invalid_stream",
            )
        self.models.add(model)


def _required(line: dict[str, Any], name: str) -> Any:
    if line.get(name) is None:
        raise InvalidRequest(f"the line has no '{name}'", param=name, code="missing_required_parameter")
    return line[name]


def _listed(fault: LineFault) -> dict[str, Any]:
    code = _CODES.get(fault.code, fault.code)
    return {"code": code, "message": fault.message, "param": fault.param, "line": fault.line}
