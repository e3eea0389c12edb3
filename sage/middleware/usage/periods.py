"""The time that a question about usage is about, and the days in it, in any time zone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from sage.errors import InvalidRequest

QUARTER = 900
_DEFAULT_DAYS = 30
_OFFSET = re.compile(r"[+\- ](\d\d):?(\d\d)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NUMBER = re.compile(r"\d{1,11}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """From ``begin`` until before ``end``, in Unix seconds; days are those of ``zone``."""

    begin: float
    end: float
    zone: tzinfo

    @property
    def quarters(self) -> tuple[int, int]:
        """The first quarter of an hour in it, and the first one after it: whole quarters, so it may grow by up to one
        at each end."""
        return int(self.begin // QUARTER), -int(-self.end // QUARTER)

    def day_of(self, quarter: int) -> str:
        """The date of a quarter in the period's time zone."""
        return datetime.fromtimestamp(quarter * QUARTER, self.zone).date().isoformat()


def read_period(
    begin: str | None, end: str | None, zone: str | None, now: Callable[[], float] = time.time
) -> UsagePeriod:
    """The period that ``from``, ``to`` and ``tz`` of a request name.

    Each end is a date in the time zone, a time in ISO 8601, or Unix seconds. A date as ``to`` belongs to the period.
    Without ``from`` it is the last thirty days, without ``to`` until now. Raises :class:`InvalidRequest`.
    """
    of_zone = read_zone(zone)
    until = now() if not end else _moment(end, "to", of_zone, after=True)
    if begin:
        since = _moment(begin, "from", of_zone)
    else:
        day = datetime.fromtimestamp(until, of_zone).date() - timedelta(days=_DEFAULT_DAYS)
        since = _midnight(day, of_zone)
    if since >= until:
        raise InvalidRequest("'from' must be before 'to'", param="from")
    return UsagePeriod(since, until, of_zone)


def read_zone(name: str | None) -> tzinfo:
    """A time zone by its name (``Asia/Kolkata``) or offset (``+05:30``); UTC without one."""
    if not name or name.upper() in ("UTC", "Z"):
        return UTC
    if match := _OFFSET.fullmatch(name):  # a plus in a query that was not escaped is a space
        hours, minutes = int(match[1]), int(match[2])
        if hours <= 14 and minutes in (0, 15, 30, 45):
            offset = timedelta(hours=hours, minutes=minutes)
            return timezone(-offset if name[0] == "-" else offset)
    elif re.fullmatch(r"[A-Za-z][A-Za-z0-9+_-]*(/[A-Za-z0-9+_-]+){0,2}", name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise InvalidRequest(
        f"'{name[:64]}' is no time zone; write a name such as Asia/Kolkata, or an offset such as +05:30", param="tz"
    )


def _moment(text: str, param: str, zone: tzinfo, *, after: bool = False) -> float:
    try:
        if _NUMBER.fullmatch(text):
            return float(text)
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text)
            return _midnight(day + timedelta(days=1) if after else day, zone)
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"'{param}' must be a date (2026-11-30), a time (2026-11-30T14:00:00+01:00) or Unix seconds", param=param
        ) from None


def _midnight(day: date, zone: tzinfo) -> float:
    """When ``day`` begins in ``zone``."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
