"""Whether a team's prompts and answers are kept, and for how long."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool

from sage.middleware.settings.providers import SettingsSection


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"'{text}' is no regular expression: {exc}") from None
    return text


class CaptureSettings(SettingsSection):
    """What is kept of a team's calls; nothing is kept of a team that has none."""

    prompts: StrictBool = False
    """Whether prompts and answers are kept."""
    days: int = Field(7, ge=1, le=3650)
    """After which they are erased."""
    redact: tuple[Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_expression)], ...] = Field(
        (), max_length=50
    )
    """Regular expressions: what one matches is replaced before anything is written."""
