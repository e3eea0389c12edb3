"""Jobs of many lines (generate, embed, evaluate) as callers ask for them: checked whole before one is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.embed_request import EmbedLines
from sage.middleware.gateway.jobs.evaluate_lines import EvaluateLines
from sage.middleware.gateway.jobs.generate_request import GenerateLines
from sage.middleware.gateway.jobs.lines import LineLimits, LineReader
from sage.middleware.gateway.jobs.options import JobOptions, take_options


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that may be accepted. ``params`` is what its worker reads, ``total`` how many items it has; ``None``
    means that it is one piece of work."""

    kind: str
    params: dict[str, Any]
    total: int | None
    options: JobOptions


class JobLines(Protocol):
    """What one kind of job makes of its lines."""

    unit: str
    """The field that holds the lines of a JSON body."""

    def own_lines(self) -> list[Any] | None:
        """The lines of a JSON body; ``None`` means that it has none."""

    def check(self, line: dict[str, Any], number: int) -> Sequence[dict[str, Any]]:
        """The items of the line of that number; called on a thread. Raises a :class:`sage.errors.SageError` for what
        is not valid."""

    async def check_names(self, principal: Principal, reader: LineReader) -> None:
        """Checks models, collections and scopes that the lines have named."""

    def params(self) -> dict[str, Any]: ...


_MOST_IN_MEMORY = 64 * 2**20
"""Bytes of the items of a job whose lines stand in a JSON body."""
MakeLines = Callable[[Gateway, Principal, dict[str, Any]], Awaitable[JobLines]]

LINES: dict[str, MakeLines] = {
    "generate": GenerateLines.open,
    "embed": EmbedLines.open,
    "evaluate": EvaluateLines.open,
}
"""The kinds of jobs that are made of lines."""


async def check_job(
    gateway: Gateway,
    principal: Principal,
    kind: str,
    fields: dict[str, Any],
    pieces: AsyncIterable[bytes] | None,
    sink: BinaryIO,
    limits: LineLimits,
) -> CheckedJob:
    """Checks a job of ``kind`` and writes its items to ``sink``, one JSON object a line.

    ``fields`` are those of the JSON body, or of the query string where the body is NDJSON; ``pieces`` are the bytes of
    that body or of the uploaded file, ``None`` means that the lines stand in ``fields``. What a request of its own
    would be refused for at once is refused here: raises :class:`InvalidRequest`,
    :class:`~sage.middleware.gateway.jobs.lines.InvalidLines`, :class:`sage.errors.PermissionDenied` and
    :class:`sage.errors.NotFound`. Nothing in ``sink`` counts then.
    """
    options = take_options(fields)
    lines = await LINES[kind](gateway, principal, fields)
    given = lines.own_lines()
    if pieces is None and given is None:
        raise InvalidRequest(
            f"the job has no work: give '{lines.unit}', an 'input_file_id', or one JSON object a line "
            "(Content-Type: application/x-ndjson)",
            param=lines.unit,
        )
    if pieces is not None and given is not None:
        raise InvalidRequest(f"give either '{lines.unit}' or lines of a file or body, not both", param=lines.unit)
    if given is not None:
        limits = replace(limits, max_job=min(limits.max_job, _MOST_IN_MEMORY))
    reader = LineReader(lines.check, sink, limits, "line" if given is None else lines.unit)
    if pieces is not None:
        await reader.read(pieces)
    else:
        await asyncio.to_thread(reader.take_all, given or ())
    await lines.check_names(principal, reader)
    return CheckedJob(kind, lines.params(), reader.items, options)
