"""What every job may say beside its work: priority, webhook, times, notes of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sage.errors import InvalidRequest
from sage.middleware.gateway.collections.requests import parse

_LONGEST = 365 * 86400.0
_MOST_NOTES = 16
_TEXTS = frozenset(
    {"model", "input_file_id", "priority", "webhook", "prompt", "collection", "judge", "encoding_format"}
)
"""Fields that are texts, also where they look like numbers in a query string."""
Note = Annotated[str, StringConstraints(max_length=512)]
NoteName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Webhook(BaseModel):
    """Where the end of a job is reported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(min_length=1, max_length=2048, examples=["https://app.example/done"])


class JobOptions(BaseModel):
    """The fields that all jobs have."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    priority: Literal["high", "normal", "low"] | None = Field(
        None, description="Which waiting job is taken first; null means normal, and low for batches."
    )
    webhook: Webhook | None = Field(None, description="Is told once the job has ended.")
    time_limit: float | None = Field(None, gt=0, le=_LONGEST, description="Seconds that the job may run.")
    expires_after: float | None = Field(
        None, gt=0, le=_LONGEST, description="Seconds that results are kept after the end of the job."
    )
    metadata: dict[NoteName, Note] | None = Field(
        None, max_length=_MOST_NOTES, description="Notes of the caller's own: up to 16 texts."
    )


def take_options(fields: dict[str, Any]) -> JobOptions:
    """Takes the common options out of ``fields``. Raises :class:`InvalidRequest` that names the one at fault."""
    options = {name: fields.pop(name) for name in JobOptions.model_fields if name in fields}
    return parse(JobOptions, options)


def query_fields(query: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a query string as a body would have them: ``max_tokens=5`` is a number, ``webhook=https://…`` an
    object with a ``url``, ``metadata={…}`` JSON."""
    fields: dict[str, Any] = {}
    for name, text in query.items():
        if name == "webhook" and not text.startswith("{"):
            fields[name] = {"url": text}
        elif name in _TEXTS and not text.startswith("{"):
            fields[name] = text
        else:
            fields[name] = _value(text)
    return fields


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def input_file(fields: dict[str, Any]) -> str | None:
    """Takes the name of the uploaded file with the job's lines out of ``fields``; ``None`` means there is none."""
    name = fields.pop("input_file_id", None)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise InvalidRequest("'input_file_id' must be the id of a file (POST /v1/files)", param="input_file_id")
    return name


def query_list(text: str) -> list[str]:
    """The names in a field of a query string: ``models=a,b``."""
    return [name.strip() for name in text.split(",")]
