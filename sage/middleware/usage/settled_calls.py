"""A call at its end, as the gateway hands it over: references only, which are read later and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from sage.middleware.usage.prices import Price
from sage.middleware.usage.records import CallSeries, PricedDeployment, UsageRecord


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


class NamedModel(Protocol):
    """A public model."""

    @property
    def name(self) -> str: ...

    @property
    def deployments(self) -> Sequence[Any]: ...


class Step(Protocol):
    """Something that a call has met on its way (:class:`sage.middleware.providers.call_steps.CallStep`)."""

    @property
    def kind(self) -> str: ...

    @property
    def begin(self) -> float:
        """``time.perf_counter``, as ``end``."""

    @property
    def end(self) -> float: ...

    @property
    def deployment(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def code(self) -> str: ...


SettledCall = tuple[
    float,  # when it ended (time.perf_counter)
    float,  # when it began
    float | None,  # when the first event of its stream came
    Caller,
    bytes,  # the request's id
    Sequence[NamedModel] | str,  # those that could answer, the requested one first; or the name of the one that did
    str,  # the operation
    bool,  # whether it is a stream
    PricedDeployment | None,  # asked last
    int,  # attempts
    int,  # status
    CountedUsage | None,
    tuple[int, int] | None,  # tokens of prompt and answer as we estimate them, where the upstream did not count
    Any,  # what budgets had reserved
    float | None,  # when it was admitted (time.perf_counter)
    Sequence[Step] | None,  # what it has met on its way beside one good answer
]


Find = Callable[[PricedDeployment], tuple[bool, Price | None]]
"""As :meth:`sage.middleware.usage.price_list.PriceList.find`."""

_MOST_KNOWN = 4096
_MOST_STEPS = 32


class _KnownCalls(NamedTuple):
    """What calls of a series have in common, and the objects whose identities stand for it."""

    series: CallSeries
    price: Price | None
    pending: PricedDeployment | None
    """``None`` where it is known whether there is a price."""
    of: tuple[Any, ...]


class CallRecorder:
    """Makes records of calls, and remembers what calls of the same caller have in common. Belongs to one thread at a
    time."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._known: dict[tuple[int, int, int, str, bool], _KnownCalls] = {}

    def record(self, call: SettledCall, offset: float) -> tuple[UsageRecord, PricedDeployment | None]:
        """The record of ``call``, and the deployment whose price is to be looked up; ``None`` where the cost is final.

        ``offset`` is ``time.time() - time.perf_counter()``. A call that no upstream has worked on costs nothing.
        """
        ended, began, first_at, caller, request_id, models, operation, stream = call[:8]
        deployment, attempts, status, usage, estimate, reservation, admitted_at, steps = call[8:]
        model = models if isinstance(models, str) else _answered_for(models, deployment)
        known = self._known.get((id(caller), id(operation), id(deployment), model, stream))
        if known is None or (known.pending is not None and self._find(known.pending)[0]):
            known = self._look_up(caller, operation, deployment, model, stream)
        time, ms = ended + offset, (ended - began) * 1000
        cached = reasoning = prompt = answer = 0
        units: Mapping[str, int] | None = None
        pending: PricedDeployment | None = None
        cost: int | None = 0
        if usage is not None:
            prompt, answer = usage.prompt_tokens, usage.completion_tokens
            cached, reasoning, units = usage.details()
        elif estimate is not None:
            prompt, answer = estimate
        if deployment is not None and (usage is not None or estimate is not None):
            pending, price = known.pending, known.price
            cost = None if price is None else price.of_call(prompt, cached, answer, reasoning, ms, units, time)
        record = UsageRecord(
            time,
            request_id.decode("ascii", "replace"),
            known.series,
            attempts,
            status,
            prompt,
            cached,
            answer,
            reasoning,
            usage is None and estimate is not None,
            cost,
            ms,
            None if first_at is None else (first_at - began) * 1000,
            None if admitted_at is None else (admitted_at - began) * 1000,
            None if steps is None else _described(steps, began),
            reservation,
            units,
        )
        return record, pending

    def _look_up(
        self, caller: Caller, operation: str, deployment: PricedDeployment | None, model: str, stream: bool
    ) -> _KnownCalls:
        if deployment is None:
            names = "", "", ""
            is_resolved, price = True, None
        else:
            names = deployment.provider.name, deployment.name, deployment.model
            is_resolved, price = self._find(deployment)
        key = _key_of(caller.subjects)
        series = CallSeries(caller.tenant, caller.user, key, model, *names, f"{operation}", stream, caller.tags)
        known = _KnownCalls(series, price, None if is_resolved else deployment, (caller, operation, deployment))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[id(caller), id(operation), id(deployment), model, stream] = known
        return known


def _answered_for(models: Sequence[NamedModel], asked: PricedDeployment | None) -> str:
    """The name of the model that ``asked`` belongs to; the requested one's if none was asked."""
    if len(models) == 1:
        return models[0].name
    return next((model.name for model in models if asked in model.deployments), models[0].name)


def _described(steps: Sequence[Step], began: float) -> str:
    """``steps`` as the ledger keeps them: a JSON list, with milliseconds from the beginning of the call."""
    rows = []
    for step in steps[:_MOST_STEPS]:
        begin = (step.begin - began) * 1000
        row = {"kind": f"{step.kind}", "from_ms": round(begin, 3), "ms": round((step.end - step.begin) * 1000, 3)}
        shown = {"deployment": step.deployment, "status": step.status, "code": step.code}
        rows.append(row | {name: value for name, value in shown.items() if value})
    return orjson.dumps(rows).decode()


def _key_of(subjects: tuple[str, ...]) -> str:
    """The id of the key among ``subjects``; empty without one."""
    return subjects[0][4:] if subjects and subjects[0].startswith("key:") else ""
