"""The five fields of cron, and the moments that they name in a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Self

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FAR = 366 * 8 + 2
"""Days within which 29 February comes again, also around 2100."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def parse(self, text: str) -> frozenset[int]:
        values: set[int] = set()
        for part in text.split(","):
            values |= self._part(part)
        return frozenset(values)

    def _part(self, part: str) -> set[int]:
        match = re.fullmatch(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/(\d{1,3}))?", part)
        if match is None or (match[1] == "*" and match[2]):
            raise ValueError(f"'{part[:40]}' is no value of the {self.name}; write *, 5, 1-5, */10 or 1,15")
        step = int(match[3] or 1)
        if step == 0:
            raise ValueError(f"'{part}': a step of the {self.name} is 1 or more")
        if match[1] == "*":
            first, last = self.low, self.high
        else:
            first = self._value(match[1])
            last = self._value(match[2]) if match[2] else self.high if match[3] else first
        if first > last:
            raise ValueError(f"'{part}': a range of the {self.name} goes upwards")
        return set(range(first, last + 1, step))

    def _value(self, text: str) -> int:
        if text in self.names:
            return self.low + self.names.index(text)
        if not text.isdecimal() or not self.low <= int(text) <= self.high:
            raise ValueError(f"'{text[:40]}' is no {self.name}; it goes from {self.low} to {self.high}")
        return int(text)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A parsed expression. As in cron, a day counts that fits either of the two day fields, when both are given."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises :class:`ValueError`, which says what is wrong, also for a date that never comes (30 February)."""
        words = _SHORT.get(text.strip().lower(), text).lower().split()
        if len(words) != len(_FIELDS):
            raise ValueError(
                f"'{text[:80]}' is no cron expression; write minute, hour, day of the month, month and day of the "
                "week, such as '0 3 * * *', or @hourly, @daily, @weekly, @monthly, @yearly"
            )
        minutes, hours, days, months, weekdays = (f.parse(w) for f, w in zip(_FIELDS, words, strict=True))
        either = not words[2].startswith("*") and not words[4].startswith("*")
        cron = cls(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)
        if cron.latest(datetime(2096, 3, 1, tzinfo=UTC), UTC) is None:
            raise ValueError(f"'{text[:80]}' names a day that never comes")
        return cron

    def latest(self, now: datetime, zone: tzinfo) -> datetime | None:
        """The last moment that it names, not after ``now``; ``None`` means that eight years have none.

        A local time that the clock skips in spring counts at the moment after the gap; one that comes twice in
        autumn counts the first time.
        """
        local = now.astimezone(zone)
        for back in range(_FAR):
            day = local.date() - timedelta(days=back)
            if day.month in self.months and self._fits(day.day, day.isoweekday() % 7):
                moment = self._latest_of_day(day, now, zone)
                if moment is not None:
                    return moment
        return None

    def _fits(self, day: int, weekday: int) -> bool:
        if self.either_day:
            return day in self.days or weekday in self.weekdays
        return day in self.days and weekday in self.weekdays

    def _latest_of_day(self, day: date, now: datetime, zone: tzinfo) -> datetime | None:
        found: list[datetime] = []
        hours_with_past = 0
        for hour in sorted(self.hours, reverse=True):
            wall = (datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone) for minute in self.minutes)
            past = [moment for moment in (one.astimezone(UTC) for one in wall) if moment <= now]
            found += past
            hours_with_past += bool(past)
            if hours_with_past == 2:  # in the gap of spring the earlier wall time can be the later moment
                break
        return max(found, default=None)
