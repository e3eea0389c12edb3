"""``/settings``: what is configured and where it comes from, without secrets, and reading the configuration again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.configuration import Configuration, ReloadPlan
from sage.middleware.routers.http.deps import AuditNote
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply
from sage.middleware.settings.effective.changes import SettingChange
from sage.middleware.settings.effective.rows import SettingRow, SettingSource

router = guarded_router("Operation", prefix="/settings")

_MOST_AUDITED = 50


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
    """All settings, by path. `file` is the one that was read; `reloadable` whether it can be read again, and
    `not_reloadable` why it cannot."""

    file: str | None
    reloadable: bool
    not_reloadable: str | None
    settings: list[SettingShown]


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
async def list_settings(configuration: TheConfiguration) -> Response:
    """Every setting that applies, each with where its value comes from. Secrets are never shown."""
    redact = configuration.redaction()
    reason = configuration.unavailable()
    settings = [_shown(row, configuration) for row in configuration.rows()]
    return reply(
        {
            "file": configuration.file,
            "reloadable": reason is None,
            "not_reloadable": reason,
            "settings": redact.within(settings),
        }
    )


@router.post("/reload", name="settings_reload", response_model=ReloadShown)
@requires(Scope.ADMIN)
async def reload_settings(body: ReloadBody, configuration: TheConfiguration, note_audit: AuditNote) -> Response:
    """Reads the configuration again, and takes over what can change while the gateway runs: models, prices, and
    providers of other machines. Running requests go on as they began. What needs a restart is named, and waits.
    A configuration that is wrong changes nothing."""
    plan = await configuration.plan() if body.dry_run else await configuration.reload(body.revision)
    taken = [".".join(change.path) for change in plan.changes if not change.needs_restart]
    if taken and not body.dry_run:
        details = {"changed": taken[:_MOST_AUDITED], "count": len(taken)}
        await note_audit("settings.reload", "settings:file", details, tenant="")
    return reply(_plan(plan, configuration, dry_run=body.dry_run))


def _plan(plan: ReloadPlan, configuration: Configuration, *, dry_run: bool) -> dict[str, Any]:
    changes = configuration.redaction().within([_changed(change) for change in plan.changes])
    return {"dry_run": dry_run, "changes": changes, "warnings": list(plan.warnings), "revision": plan.revision}


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
