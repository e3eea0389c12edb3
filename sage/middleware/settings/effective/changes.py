"""What another reading of the configuration changes, and what of it a running gateway can take over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sage.middleware.settings.effective.rows import SettingPath, SettingRow
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.settings import Settings

ChangeKind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that is no longer as it was."""

    path: SettingPath
    kind: ChangeKind
    before: SettingRow | None
    after: SettingRow | None
    needs_restart: bool


def changes(
    before: Mapping[SettingPath, SettingRow],
    after: Mapping[SettingPath, SettingRow],
    settings: tuple[Settings, Settings],
) -> Iterator[SettingChange]:
    """What differs, by path. ``settings`` are those that apply, and those that were read."""
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is not None and new is not None and old.fingerprint == new.fingerprint:
            continue
        if any(row.source.kind == "default" for row in (old, new) if row is not None) and None in (old, new):
            continue  # the defaults of a model that comes or goes
        kind: ChangeKind = "added" if old is None else "removed" if new is None else "changed"
        yield SettingChange(path, kind, old, new, not is_reloadable(path, settings))


def is_reloadable(path: SettingPath, settings: tuple[Settings, ...]) -> bool:
    """Whether a running gateway takes the setting over: models, prices, and providers that run no models here."""
    if path[:2] in (("llm", "models"), ("llm", "prices")):
        return True
    if path[:2] != ("llm", "providers"):
        return False
    return len(path) == 2 or all(_is_remote(path[2], each) for each in settings)


def _is_remote(name: str, settings: Settings) -> bool:
    section = settings.llm.providers.get(name)
    if section is None:
        return True
    kind = KINDS[section.kind]
    return not kind.keeps_files and not kind.starts_engines


def merged(before: Settings, after: Settings) -> Settings:
    """``before`` with what of ``after`` a running gateway can take over."""
    both = before, after
    names = {*before.llm.providers, *after.llm.providers}
    providers = {}
    for name in sorted(names):
        source = after if is_reloadable(("llm", "providers", name), both) else before
        if name in source.llm.providers:
            providers[name] = source.llm.providers[name]
    llm = before.llm.model_copy(update={"providers": providers, "models": after.llm.models, "prices": after.llm.prices})
    return before.model_copy(update={"llm": llm})
