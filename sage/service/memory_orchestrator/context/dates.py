"""The date of a memory as words, by which searches find it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from sage.middleware.retrieval.text.scripts import HAN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_HAN = re.compile(f"[{HAN}]")


def date_words(time: float, content: str) -> str:
    """The day of ``time`` (Unix seconds) in UTC, as a question in the language of ``content`` names it: in Chinese and
    Japanese ``2023年5月18日``, else ``18 May 2023``. Empty for a time that the calendar does not have."""
    try:
        day = _EPOCH + timedelta(seconds=time)
    except (OverflowError, ValueError):
        return ""
    if _HAN.search(content):
        return f"{day.year}年{day.month}月{day.day}日"
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
