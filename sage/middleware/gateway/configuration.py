"""The configuration of a running gateway: what applies and where it comes from, and taking over a changed file."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sage.errors import Conflict, InvalidRequest, SageError
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import Provider
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.effective.changes import SettingChange, changes, is_reloadable, merged
from sage.middleware.settings.effective.listing import SettingList
from sage.middleware.settings.effective.masking import Redaction, is_secret_name
from sage.middleware.settings.effective.rows import (
    SettingPath,
    SettingRow,
    model_rows,
    secrets_of,
    setting_rows,
)
from sage.middleware.settings.reading import LoadedSettings
from sage.middleware.settings.settings import Model, Settings

Check = Callable[[Settings, Registry], Iterable[str]]
"""What cannot work on this machine, as ``sage config check`` says it."""


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What a reload changes. ``revision`` stands for the configuration as it was read."""

    changes: tuple[SettingChange, ...]
    warnings: tuple[str, ...]
    revision: str


@dataclass(frozen=True, slots=True)
class _ReadAgain:
    """A configuration that was read, and the providers of what can be taken over of it."""

    loaded: LoadedSettings
    target: Settings
    providers: Mapping[str, Provider]
    absent: Mapping[str, str]
    plan: ReloadPlan
    rows: Mapping[SettingPath, SettingRow]


class Configuration:
    """The settings of a gateway. Only models, prices and providers of other machines can change while it runs."""

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        loaded: LoadedSettings | None,
        make_registry: Callable[[Settings], Registry],
        check: Check,
    ) -> None:
        """``loaded`` is where ``settings`` come from; ``None`` means from the program that runs the gateway.
        ``make_registry`` makes one to try other settings with."""
        self._gateway = gateway
        self._settings = settings
        self._loaded = loaded
        self._make_registry = make_registry
        self._check = check
        self._key = secrets.token_bytes(32)
        self._taken: dict[SettingPath, SettingRow] | None = None
        self._listed: tuple[int, SettingList] | None = None
        self._redaction: tuple[Settings, Redaction] | None = None
        self._listing = asyncio.Lock()
        self._changing = asyncio.Lock()

    @property
    def _rows(self) -> dict[SettingPath, SettingRow]:
        """What applies, without models that were registered at run time; made when it is first asked for."""
        if self._taken is None:
            self._taken = setting_rows(self._settings, self._loaded, self._key)
        return self._taken

    @property
    def file(self) -> str | None:
        """The file that was read."""
        return None if self._loaded is None or self._loaded.file is None else str(self._loaded.file)

    async def listed(self) -> SettingList:
        """What applies now, models that were registered at run time among it. Made once for each change, and not in
        the event loop: thousands of models take seconds."""
        registry = self._gateway.registry
        async with self._listing:
            changes = registry.changes
            if self._listed is None or self._listed[0] != changes:
                stored = dict(registry.stored_models())
                self._listed = changes, await asyncio.to_thread(self._list, stored)
            return self._listed[1]

    def _list(self, stored: Mapping[str, Model]) -> SettingList:
        return SettingList({**self._rows, **model_rows(stored, self._key)}.values())

    def redaction(self) -> Redaction:
        """Takes the secrets that apply out of sentences. Slow when it is first asked for."""
        settings = self._settings
        if self._redaction is None or self._redaction[0] is not settings:
            self._redaction = settings, Redaction(secrets_of(settings))
        return self._redaction[1]

    def needs_restart(self, path: SettingPath) -> bool:
        """Whether another value in the file would apply only after a restart."""
        return self.several_processes or not is_reloadable(path, (self._settings,))

    @property
    def several_processes(self) -> bool:
        """Whether requests are answered by several processes (``api.workers``), which take nothing over."""
        return self._settings.api.workers > 1

    @property
    def restart_only(self) -> bool:
        """Whether the configuration can be read again, but all of it waits for a restart."""
        return self._loaded is not None and self.several_processes

    def unavailable(self) -> str | None:
        """Why nothing can be reloaded; ``None`` means that it can."""
        if self._loaded is None:
            return "this gateway has its settings from the program that started it"
        if self.several_processes:
            return (
                f"this gateway answers with {self._settings.api.workers} processes (api.workers), which take nothing "
                "over while they run: restart it; 'dry_run' tells what that changes"
            )
        return None

    async def plan(self) -> ReloadPlan:
        """What a reload would change. Raises :class:`InvalidRequest` for a configuration that is wrong."""
        async with self._changing:
            return (await self._read()).plan

    async def reload(self, revision: str | None) -> ReloadPlan:
        """Takes over what can be, all of it or nothing, and returns what has changed.

        ``revision`` is that of the plan that was looked at; raises :class:`Conflict` where the file says something else
        by now.
        """
        if self.restart_only:
            raise self._not_reloadable()
        async with self._changing:
            candidate = await self._read()
            if revision is not None and revision != candidate.plan.revision:
                raise Conflict(
                    "the configuration has changed since it was looked at; look at what would change again",
                    param="revision",
                    code="configuration_changed",
                )
            await self._take_over(candidate)
            return candidate.plan

    async def _read(self) -> _ReadAgain:
        loaded = self._loaded
        if loaded is None:
            raise self._not_reloadable()
        try:
            again = await asyncio.to_thread(loaded.again)
            target = merged(self._settings, again.settings)
            trial = await asyncio.to_thread(self._make_registry, target)
        except SageError as exc:
            message = await asyncio.to_thread(self._redacted, exc.message)
            raise InvalidRequest(message, code="invalid_configuration") from None
        try:
            warnings = await asyncio.to_thread(self._warnings, again.settings, trial)
            providers, absent = dict(trial.providers), dict(trial.absent)
        finally:
            await trial.close()
        plan, rows = await asyncio.to_thread(self._compared, again, warnings)
        return _ReadAgain(again, target, providers, absent, plan, rows)

    def _warnings(self, settings: Settings, trial: Registry) -> tuple[str, ...]:
        redact = Redaction([*secrets_of(self._settings), *secrets_of(settings)])
        return tuple(redact(text) for text in self._check(settings, trial))

    def _compared(
        self, again: LoadedSettings, warnings: tuple[str, ...]
    ) -> tuple[ReloadPlan, dict[SettingPath, SettingRow]]:
        """What differs, and the rows of what was read. Slow."""
        rows = setting_rows(again.settings, again, self._key)
        found = tuple(changes(self._rows, rows, (self._settings, again.settings)))
        if self.several_processes:
            found = tuple(SettingChange(each.path, each.kind, each.before, each.after, True) for each in found)
        return ReloadPlan(found, warnings, self._revision(rows)), rows

    def _not_reloadable(self) -> Conflict:
        return Conflict(f"nothing can be reloaded: {self.unavailable()}", code="not_reloadable")

    def _redacted(self, message: str) -> str:
        loaded = self._loaded
        known = list(secrets_of(self._settings))
        if loaded is not None:
            known += [value for name, value in loaded.environ.items() if len(value) >= 8 and is_secret_name(name)]
        return Redaction(known)(message)

    def _revision(self, rows: Mapping[SettingPath, SettingRow]) -> str:
        """The same for the same settings, in this process."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for path, row in sorted(rows.items()):
            digest.update(repr(path).encode() + row.fingerprint)
        return digest.hexdigest()[:32]

    async def _take_over(self, candidate: _ReadAgain) -> None:
        if not any(not each.needs_restart for each in candidate.plan.changes):
            return
        before, after = self._settings, candidate.target
        names = before.llm.providers.keys() | after.llm.providers.keys()
        different = {name for name in names if before.llm.providers.get(name) != after.llm.providers.get(name)}
        taken = await asyncio.to_thread(self._kept_and_new, candidate)
        registry = self._gateway.registry
        different |= registry.providers.keys() ^ candidate.providers.keys()
        await registry.reconfigure(
            before.llm.models,
            after.llm.models,
            {name: candidate.providers.get(name) for name in different},
            candidate.absent,
        )
        if self._gateway.ledger is not None:
            self._gateway.ledger.prices.replace(after.llm.prices)
        self._settings, self._taken, self._listed = after, taken, None

    def _kept_and_new(self, candidate: _ReadAgain) -> dict[SettingPath, SettingRow]:
        """The rows of what applies once ``candidate`` is taken over. Slow."""
        both = self._settings, candidate.loaded.settings
        kept = {path: row for path, row in self._rows.items() if not is_reloadable(path, both)}
        return kept | {path: row for path, row in candidate.rows.items() if is_reloadable(path, both)}
