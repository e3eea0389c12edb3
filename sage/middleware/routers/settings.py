"""``/settings``: what is configured and where it comes from, without secrets, and reading the configuration again."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.configuration import Configuration, ReloadPlan
from sage.middleware.routers.http.deps import AuditNote
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply
from sage.middleware.settings.effective.changes import SettingChange
from sage.middleware.settings.effective.listing import SettingList, SettingQuery
from sage.middleware.settings.effective.rows import SettingPath, SettingRow, SettingSource

router = guarded_router("Operation", prefix="/settings")

_MOST_AUDITED = 50
_Source = Literal["set", "default", "file", "environment", "command_line", "api", "program"]


class SettingOrigin(BaseModel):
    """Where a value comes from. `name` is the environment variable or the option of `sage serve`; `variables` are those
    that the file names for it."""

    kind: Literal["default", "file", "environment", "command_line", "api", "program"]
    name: str | None
    variables: list[str]


class SettingShown(BaseModel):
    """A setting. What of `value` is secret is dots, and `hidden` says that something is. `restart`: another value
    applies only after a restart."""

    path: list[str]
    value: Any
    default: Any
    unit: Literal["seconds", "bytes"] | None
    hidden: bool
    source: SettingOrigin
    restart: bool


class SettingsShown(BaseModel):
    """Settings, by path. `file` is the one that was read; `reloadable` whether what it says now can be taken over, and
    `not_reloadable` why it cannot. `restart_only`: a dry run of a reload still tells what a restart changes. `total`
    counts the settings that match, `cursor` gives the next page, and is null at the last. `sections` and `sources` are
    all there are."""

    file: str | None
    reloadable: bool
    not_reloadable: str | None
    restart_only: bool
    settings: list[SettingShown]
    total: int
    cursor: str | None
    sections: list[str]
    sources: list[str]


class SettingChanged(BaseModel):
    """A setting that another reading of the configuration changes. A secret that differs shows dots on both sides."""

    path: list[str]
    change: Literal["added", "removed", "changed"]
    before: Any
    after: Any
    unit: Literal["seconds", "bytes"] | None
    source: SettingOrigin | None = Field(description="Of the new value; null where it is gone.")
    restart: bool = Field(description="It applies only after a restart.")


class ReloadShown(BaseModel):
    """What a reload changes, or has changed. `warnings` are what `sage config check` finds. `revision` stands for the
    configuration as it was read."""

    dry_run: bool
    changes: list[SettingChanged]
    warnings: list[str]
    revision: str


class ReloadBody(BaseModel):
    """`dry_run` only tells what would change. `revision`, from a dry run, has the reload refused where the
    configuration has changed since."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dry_run: bool = False
    revision: str | None = Field(None, max_length=64)


async def _configuration(request: Request) -> Configuration:
    configuration = request.app.state.configuration
    assert isinstance(configuration, Configuration)
    return configuration


TheConfiguration = Annotated[Configuration, Depends(_configuration)]


@router.get("", name="settings_list", response_model=SettingsShown)
@requires(Scope.ADMIN)
async def list_settings(
    configuration: TheConfiguration,
    prefix: Annotated[str | None, Query(max_length=1000, description="Those below it, such as `llm.models`.")] = None,
    contains: Annotated[str | None, Query(max_length=1000, description="Those with it in their dotted names.")] = None,
    source: Annotated[_Source | None, Query(description="`set` stands for all that are no defaults.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=10_000, description="Left out: all.")] = None,
    cursor: Annotated[str | None, Query(max_length=4000, description="The `cursor` of the page before.")] = None,
) -> Response:
    """Settings that apply, each with where its value comes from. Secrets are never shown."""
    query = SettingQuery(prefix, contains, source, None if cursor is None else _path_of(cursor), limit)
    listed = await configuration.listed()
    return await asyncio.to_thread(_page, configuration, listed, query)  # it may be all of thousands of models


@router.post("/reload", name="settings_reload", response_model=ReloadShown)
@requires(Scope.ADMIN)
async def reload_settings(body: ReloadBody, configuration: TheConfiguration, note_audit: AuditNote) -> Response:
    """Reads the configuration again, and takes over what can change while the gateway runs: models, prices, and
    providers of other machines. Running requests go on as they began. What needs a restart is named, and waits.
    A configuration that is wrong changes nothing. With `api.workers` above 1 only `dry_run` is answered: all of it
    waits for a restart (409, `not_reloadable`)."""
    plan = await configuration.plan() if body.dry_run else await configuration.reload(body.revision)
    taken = [".".join(change.path) for change in plan.changes if not change.needs_restart]
    if taken and not body.dry_run:
        details = {"changed": taken[:_MOST_AUDITED], "count": len(taken)}
        await note_audit("settings.reload", "settings:file", details, tenant="")
    return await asyncio.to_thread(_plan, plan, configuration, body.dry_run)


def _page(configuration: Configuration, listed: SettingList, query: SettingQuery) -> Response:
    page = listed.find(query)
    shown = configuration.redaction().within([_shown(row, configuration) for row in page.rows])
    reason = configuration.unavailable()
    return reply(
        {
            "file": configuration.file,
            "reloadable": reason is None,
            "not_reloadable": reason,
            "restart_only": configuration.restart_only,
            "settings": shown,
            "total": page.total,
            "cursor": _cursor(page.rows[-1].path) if page.following and page.rows else None,
            "sections": listed.sections,
            "sources": listed.sources,
        }
    )


def _cursor(path: SettingPath) -> str:
    return json.dumps(path, ensure_ascii=False)


def _path_of(cursor: str) -> SettingPath:
    """Raises :class:`InvalidRequest` for what :func:`_cursor` has not made."""
    try:
        path = json.loads(cursor)
    except ValueError:
        path = None
    if not isinstance(path, list) or not path or not all(isinstance(each, str) for each in path):
        raise InvalidRequest("'cursor' is not one that this route has given", param="cursor")
    return tuple(path)


def _plan(plan: ReloadPlan, configuration: Configuration, dry_run: bool) -> Response:
    changes = configuration.redaction().within([_changed(change) for change in plan.changes])
    shown = {"dry_run": dry_run, "changes": changes, "warnings": list(plan.warnings), "revision": plan.revision}
    return reply(shown)


def _shown(row: SettingRow, configuration: Configuration) -> dict[str, Any]:
    return {
        "path": list(row.path),
        "value": row.value,
        "default": row.default,
        "unit": row.unit,
        "hidden": row.is_secret,
        "source": _origin(row.source),
        "restart": configuration.needs_restart(row.path),
    }


def _changed(change: SettingChange) -> dict[str, Any]:
    row = change.after or change.before
    return {
        "path": list(change.path),
        "change": change.kind,
        "before": None if change.before is None else change.before.value,
        "after": None if change.after is None else change.after.value,
        "unit": None if row is None else row.unit,
        "source": None if change.after is None else _origin(change.after.source),
        "restart": change.needs_restart,
    }


def _origin(source: SettingSource) -> dict[str, Any]:
    return {"kind": source.kind, "name": source.name, "variables": list(source.variables)}
