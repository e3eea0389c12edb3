"""A call at its end, as the gateway hands it over: references only, which are read later and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sage.middleware.usage.prices import Price
from sage.middleware.usage.records import PricedDeployment, UsageRecord, priced_counts


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


Find = Callable[[PricedDeployment], tuple[bool, Price | None]]
"""As :meth:`sage.middleware.usage.price_list.PriceList.find`."""


def recorded(call: SettledCall, offset: float, find: Find) -> tuple[UsageRecord, PricedDeployment | None]:
    """The record of ``call``, and the deployment whose price is to be looked up; ``None`` where the cost is final.

    ``offset`` is ``time.time() - time.perf_counter()``. A call that no upstream has worked on costs nothing.
    """
    ended, began, first_at, caller, request_id, model, operation, stream = call[:8]
    deployment, attempts, status, usage, estimate, reservation = call[8:]
    time, ms = ended + offset, (ended - began) * 1000
    cached = reasoning = 0
    units: Mapping[str, int] | None = None
    pending: PricedDeployment | None = None
    cost: int | None = 0
    if usage is not None:
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached, reasoning, units = usage.details()
    else:
        prompt, completion = estimate or (0, 0)
    if deployment is not None and (usage is not None or estimate is not None):
        resolved, price = find(deployment)
        if price is None:
            cost = None
            pending = None if resolved else deployment
        else:
            cost = price.cost(priced_counts(prompt, cached, completion, reasoning, ms, units), time)
    names = (deployment.provider.name, deployment.name, deployment.model) if deployment is not None else ("", "", "")
    values = (
        *(time, request_id.decode("ascii", "replace"), caller.tenant, caller.user, _key_of(caller.subjects), model),
        *names,
        *(f"{operation}", stream, attempts, status, prompt, cached, completion, reasoning),
        *(usage is None and estimate is not None, cost, ms, None if first_at is None else (first_at - began) * 1000),
        *(caller.tags, reservation, units),
    )
    record = UsageRecord._make(values)
    return record, pending


def _key_of(subjects: tuple[str, ...]) -> str:
    """The id of the key among ``subjects``; empty without one."""
    return subjects[0][4:] if subjects and subjects[0].startswith("key:") else ""
