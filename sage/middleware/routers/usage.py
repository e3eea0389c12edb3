"""``/usage``: what calls have used and cost, summed and one by one."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from sage.errors import InvalidRequest, NotFound, PermissionDenied
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.routers.http.deps import AuditNote, Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.key_names import KeyNames, TheKeyNames
from sage.middleware.routers.items import reply
from sage.middleware.usage.csv_table import csv_table
from sage.middleware.usage.ledger import Ledger
from sage.middleware.usage.models import SUMS
from sage.middleware.usage.periods import UsagePeriod, read_period
from sage.middleware.usage.reader import UsageFilter, UsageReader
from sage.middleware.usage.timeline import step_for, timeline

router = guarded_router("Usage")

_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)|failed")
_CURSOR = re.compile(r"[0-9]{1,19}")
_CSV = "text/csv; charset=utf-8"
_CSV_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
_Group = Literal["key", "user", "tenant", "model", "provider", "day", "tag"]


class UsageSum(BaseModel):
    """The sums of the calls that have one `key`, `user`, `tenant`, `model`, `provider`, `day` or `tag`. `cost` is in US
    dollars, of the calls whose price is known, and null if it is known of none; `priced` tells whether it is that of
    all. `failed` calls have a status from 400, `estimated` ones were counted by the gateway."""

    key: str | None = None
    user: str | None = None
    tenant: str | None = None
    model: str | None = None
    provider: str | None = None
    day: str | None = None
    tag: str | None = None
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    estimated: int
    cost: float | None
    unpriced: int
    ms: int
    priced: bool
    key_name: str | None = Field(None, description="Of a sum of one key; null if it has none.")


class UsageSums(BaseModel):
    """`from` and `to` are what the question came to: whole quarters of an hour, in Unix seconds."""

    by: str
    begin: float = Field(alias="from")
    end: float = Field(alias="to")
    rows: list[UsageSum]


class UsageStep(BaseModel):
    """What a call has met on its way, `from_ms` after its beginning, for `ms`. `queue`: it waited for a deployment that
    was full; `load`: for a model to be loaded; `connect`: a connection was opened, in the attempt that follows;
    `attempt`: one that gave no answer, or whose stream broke; `pause`: the wait before the next; `refused`: nothing
    could be asked. `status` and `code` are those of the error."""

    kind: Literal["queue", "load", "connect", "attempt", "pause", "refused"]
    from_ms: float
    ms: float
    deployment: str | None = None
    status: int | None = None
    code: str | None = None


class UsageCall(BaseModel):
    """One call. `id` is its `x-request-id`, `time` when it ended (Unix seconds). `cost` is in US dollars, null if
    nobody knows the price. `provider` is empty if no upstream was asked. `admitted_ms` is how long rights, limits and
    budgets took; `steps` are empty for a call that met nothing but one good answer, over a connection that was open."""

    id: str
    time: float
    tenant: str
    user: str
    key: str
    tags: list[str]
    model: str
    provider: str
    deployment: str
    upstream_model: str
    operation: str
    stream: bool
    attempts: int
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost: float | None
    ms: float
    first_token_ms: float | None
    admitted_ms: float | None
    steps: list[UsageStep]
    priced: bool
    key_name: str | None = Field(None, description="What its key is called; null if it has no name.")


class UsageCalls(BaseModel):
    """Calls, the newest first; `cursor` gives the next page, and is null at the last."""

    requests: list[UsageCall]
    cursor: str | None


class Percentiles(BaseModel):
    """In milliseconds; half of the calls took `p50` at most. Exact to a tenth."""

    p50: float
    p95: float
    p99: float


class UsageMoment(BaseModel):
    """The calls that ended in one step of a period, which begins at `time` (Unix seconds)."""

    time: int
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    unpriced: int
    ms: Percentiles | None
    first_token_ms: Percentiles | None = Field(description="Of streams; null if there were none.")


class UsageTimeline(BaseModel):
    """Steps in which calls have ended, in their order; each is `step` seconds long."""

    step: int
    begin: float = Field(alias="from")
    end: float = Field(alias="to")
    rows: list[UsageMoment]


class UsageText(BaseModel):
    """What is kept of a call until `expires_at`, with `[redacted]` in place of what the team's expressions match."""

    id: str
    time: float
    tenant: str
    user: str
    model: str
    prompt: str
    answer: str
    expires_at: int


class UsageTexts(BaseModel):
    """Of all calls with that `x-request-id`; clients may repeat theirs."""

    texts: list[UsageText]


class UsageErased(BaseModel):
    """How many calls were deleted."""

    requests: int


def _period(
    begin: Annotated[str | None, Query(alias="from", description="A date, a time (ISO 8601), or Unix seconds.")] = None,
    end: Annotated[
        str | None, Query(alias="to", description="As `from`; a date belongs to the period. Without it: now.")
    ] = None,
    tz: Annotated[
        str | None, Query(description="Whose days and dates: a name (Asia/Kolkata) or an offset (+05:30); UTC.")
    ] = None,
) -> UsagePeriod:
    return read_period(begin, end, tz)


def _filter(
    caller: Caller,
    user: Annotated[str | None, Query(description="For owners and admins; others have their own usage.")] = None,
    tenant: Annotated[str | None, Query(description="For admins.")] = None,
    key: str | None = None,
    model: str | None = None,
    provider: str | None = None,
    tag: str | None = None,
) -> UsageFilter:
    tenant, user = _reach(caller, tenant, user)
    return UsageFilter(tenant, user, key, model, provider, tag)


def _reach(caller: Principal, tenant: str | None, user: str | None) -> tuple[str | None, str | None]:
    """Whose usage the caller sees: its own, as an owner its tenant's, as an admin everybody's."""
    if Scope.ADMIN in caller.scopes:
        return tenant, user
    if tenant not in (None, caller.tenant):
        raise PermissionDenied("only admins see the usage of other tenants", param="tenant", code="missing_scope")
    if Scope.TENANT_ADMIN in caller.scopes:
        return caller.tenant, user
    if user not in (None, caller.user):
        raise PermissionDenied(
            "only admins, and owners of a tenant, see the usage of other users", param="user", code="missing_scope"
        )
    return caller.tenant, caller.user


async def _name_keys(rows: list[dict[str, Any]], key_names: KeyNames) -> None:
    """Adds what the keys of ``rows`` are called."""
    names = await key_names.of(row["key"] for row in rows)
    for row in rows:
        row["key_name"] = names.get(row["key"])


async def _ledger(gateway: TheGateway) -> Ledger:
    if gateway.ledger is None or gateway.ledger.reader is None:
        raise NotFound("this gateway keeps no usage")
    return gateway.ledger


Wanted = Annotated[UsageFilter, Depends(_filter)]
Within = Annotated[UsagePeriod, Depends(_period)]
TheLedger = Annotated[Ledger, Depends(_ledger)]
Format = Annotated[Literal["json", "csv"] | None, Query(description="Without it, as `Accept` asks.")]


@router.get("/usage", name="usage", response_model=UsageSums, responses=_CSV_ANSWER)
@requires(Scope.USAGE)
async def usage(
    request: Request,
    gateway: TheGateway,
    ledger: TheLedger,
    period: Within,
    wanted: Wanted,
    key_names: TheKeyNames,
    by: Annotated[_Group, Query(description="What calls are summed by.")] = "day",
    format: Format = None,
) -> Response:
    """The sums of calls: of one's own, for owners of their tenant's, for admins of all. They hold all calls that have
    ended. Calls with several tags count under each of them."""
    await _all_stored(gateway, ledger)
    rows = await asyncio.to_thread(_reader(ledger).sums, by, period, wanted)
    if by == "key":
        await _name_keys(rows, key_names)
    if _wants_csv(request, format):
        return _csv([by, *SUMS, "priced", *(["key_name"] if by == "key" else [])], rows, f"usage-by-{by}")
    first, after = period.quarters
    return reply({"by": by, "from": first * 900, "to": after * 900, "rows": rows})


@router.get("/usage/requests", name="usage_requests", response_model=UsageCalls, responses=_CSV_ANSWER)
@requires(Scope.USAGE)
async def usage_requests(
    request: Request,
    gateway: TheGateway,
    ledger: TheLedger,
    period: Within,
    wanted: Wanted,
    key_names: TheKeyNames,
    status: Annotated[str | None, Query(description="A status (429), a class (5xx), or `failed`.")] = None,
    id: Annotated[str | None, Query(description="An `x-request-id`; give `from`, too, where there are many.")] = None,
    cursor: Annotated[str | None, Query(description="The `cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    format: Format = None,
) -> Response:
    """Single calls, the newest first: one's own, for owners their tenant's, for admins all."""
    wanted = replace(wanted, statuses=_statuses(status), id=id)
    await _all_stored(gateway, ledger)
    rows, following = await asyncio.to_thread(_reader(ledger).page, period, wanted, _before(cursor), limit)
    await _name_keys(rows, key_names)
    if _wants_csv(request, format):
        for row in rows:
            row["time"] = datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="milliseconds")
            row["steps"] = orjson.dumps(row["steps"]).decode() if row["steps"] else ""
        answer = _csv(list(UsageCall.model_fields), rows, "usage-requests")
        if following is not None:
            answer.headers["x-sage-cursor"] = following
        return answer
    return reply({"requests": rows, "cursor": following})


@router.get("/usage/timeline", name="usage_timeline", response_model=UsageTimeline)
@requires(Scope.USAGE)
async def usage_timeline(
    gateway: TheGateway,
    ledger: TheLedger,
    period: Within,
    wanted: Wanted,
    steps: Annotated[int, Query(ge=1, le=200, description="About how many there are to be at most.")] = 60,
) -> Response:
    """Calls over time, with the percentiles of how long they took: of single calls, so as far back as these are kept
    (`usage.retention.requests`). A step is a minute, 5, 15, an hour, 6 or a day."""
    await _all_stored(gateway, ledger)
    step = step_for(period, steps)

    def read() -> list[dict[str, Any]]:
        with _reader(ledger).connection() as connection:
            return timeline(connection, period, wanted, step)

    rows = await asyncio.to_thread(read)
    return reply({"step": step, "from": period.begin, "to": period.end, "rows": rows})


@router.get("/usage/requests/{id}/texts", name="usage_texts", response_model=UsageTexts)
@requires(Scope.TENANT_ADMIN)
async def usage_texts(ledger: TheLedger, caller: Caller, id: str) -> Response:
    """The prompt and the answer of a request, by its `x-request-id`, if its team has them kept: for the team's owners,
    and for admins."""
    tenant, _ = _reach(caller, None, None)
    captures = ledger.captures
    if captures is None:
        raise NotFound("this gateway keeps no texts")
    await asyncio.to_thread(captures.finish)
    return reply({"texts": await asyncio.to_thread(captures.find, id, tenant)})


@router.delete("/usage", name="usage_erase")
@requires(Scope.TENANT_ADMIN)
async def usage_erase(
    gateway: TheGateway,
    ledger: TheLedger,
    caller: Caller,
    note_audit: AuditNote,
    user: Annotated[str, Query(min_length=1, description="Whose calls are forgotten.")],
    tenant: Annotated[str | None, Query(description="Only those in this tenant; owners erase in their own.")] = None,
) -> UsageErased:
    """Forgets a user: deletes the user's calls, what is kept of their texts, and kept responses, and takes the name and
    the keys out of the sums, which stay."""
    tenant, user_name = _reach(caller, tenant, user)
    assert user_name is not None
    await _all_stored(gateway, ledger)
    if ledger.captures is not None:
        await asyncio.to_thread(ledger.captures.finish)
        await asyncio.to_thread(ledger.captures.erase, user_name, tenant)
    erased = await asyncio.to_thread(_reader(ledger).erase, user_name, tenant)
    await gateway.responses.run(lambda store: store.erase(user_name, tenant))
    await note_audit("usage.erase", f"user:{user_name}", {"requests": erased}, tenant=tenant or "")
    return UsageErased(requests=erased)


async def _all_stored(gateway: Gateway, ledger: Ledger) -> None:
    """Returns once all calls that have ended, in other processes too, are stored, or after some seconds."""
    await gateway.metrics.ask_others()
    await ledger.stored()


def _reader(ledger: Ledger) -> UsageReader:
    assert ledger.reader is not None
    return ledger.reader


def _statuses(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _STATUS.fullmatch(text)
    if match is None:
        raise InvalidRequest("'status' must be a number such as 429, a class such as 5xx, or 'failed'", param="status")
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    return (int(match[2]), int(match[2])) if match[2] else (400, 599)


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if _CURSOR.fullmatch(cursor) is None:
        raise InvalidRequest("'cursor' is not one that this route has given", param="cursor")
    return min(int(cursor), 2**63 - 1)


def _wants_csv(request: Request, wanted: str | None) -> bool:
    if wanted is not None:
        return wanted == "csv"
    accepted = request.headers.get("accept", "")
    return "text/csv" in accepted and "application/json" not in accepted


def _csv(columns: list[str], rows: list[dict[str, Any]], name: str) -> Response:
    disposition = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(csv_table(columns, rows), media_type=_CSV, headers=disposition)
