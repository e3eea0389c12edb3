"""A call at its end, as the gateway hands it over: references only, which are read later and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sage.middleware.usage.records import PricedDeployment, UsageRecord


class Caller(Protocol):
    """Who asked."""

    @property
    def tenant(self) -> str: ...

    @property
    def user(self) -> str: ...

    @property
    def subjects(self) -> tuple[str, ...]:
        """``key:<id>`` of its key first, where it has one."""

    @property
    def tags(self) -> tuple[str, ...]: ...


class CountedUsage(Protocol):
    """Tokens as an upstream has counted them."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...

    def details(self) -> tuple[int, int, Mapping[str, int] | None]:
        """Cached tokens of the prompt, tokens of reasoning, and what else has a price, by genai-prices' names."""


SettledCall = tuple[
    float,  # when it ended (time.perf_counter)
    float,  # when it began
    float | None,  # when the first event of its stream came
    Caller,
    bytes,  # the request's id
    str,  # the model that answered
    str,  # the operation
    bool,  # whether it is a stream
    PricedDeployment | None,  # asked last
    int,  # attempts
    int,  # status
    CountedUsage | None,
    tuple[int, int] | None,  # tokens of prompt and answer as we estimate them, where the upstream did not count
    Any,  # what budgets had reserved
]


def recorded(
    call: SettledCall | tuple[UsageRecord, PricedDeployment | None], offset: float
) -> tuple[UsageRecord, PricedDeployment | None]:
    """The record of ``call``, and the deployment whose price holds; ``None`` where the cost is final.

    ``offset`` is ``time.time() - time.perf_counter()``. A call that no upstream has worked on costs nothing.
    """
    if len(call) == 2:
        return call
    ended, began, first_at, caller, request_id, model, operation, stream = call[:8]
    deployment, attempts, status, usage, estimate, reservation = call[8:]
    cached = reasoning = 0
    units: Mapping[str, int] | None = None
    if usage is not None:
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached, reasoning, units = usage.details()
    else:
        prompt, completion = estimate or (0, 0)
    is_free = deployment is None or (usage is None and estimate is None)
    record = UsageRecord(
        ended + offset,
        request_id.decode("ascii", "replace"),
        caller.tenant,
        caller.user,
        _key_of(caller.subjects),
        caller.tags,
        model,
        deployment.provider.name if deployment is not None else "",
        deployment.name if deployment is not None else "",
        deployment.model if deployment is not None else "",
        f"{operation}",
        stream,
        attempts,
        status,
        prompt,
        cached,
        completion,
        reasoning,
        usage is None and estimate is not None,
        0 if is_free else None,
        (ended - began) * 1000,
        None if first_at is None else (first_at - began) * 1000,
        reservation,
        units,
    )
    return record, None if is_free else deployment


def _key_of(subjects: tuple[str, ...]) -> str:
    """The id of the key among ``subjects``; empty without one."""
    return subjects[0][4:] if subjects and subjects[0].startswith("key:") else ""
