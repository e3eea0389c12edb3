"""The settings of the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import expand


class AuditSettings(SettingsSection):
    """The account of who changed what. It is always kept."""

    anchors: Annotated[Path, AfterValidator(expand)] | None = None
    """A file to which the number and the hash of the last event are appended once a day, on a disk that the owner of
    the database cannot write; ``None`` means that they are in the log alone."""
