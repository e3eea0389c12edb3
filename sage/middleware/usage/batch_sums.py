"""The calls of a batch as rows, and their sums, added up before they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import orjson

from sage.middleware.usage.entries import LateCost, LedgerEntry
from sage.middleware.usage.models import QUARTER, QUARTERS_A_DAY, SUMS
from sage.middleware.usage.records import CallSeries

Sums = dict[tuple[Any, ...], list[int]]
"""Numbers in the order of :data:`SUMS` under the primary keys of a table."""

_FAILED = 400
_MOST_KNOWN = 4096


def series_number(series: Sequence[Any]) -> int:
    """The number of what calls have in common, the same in all processes: 63 bits of its SHA-256."""
    return int.from_bytes(sha256(orjson.dumps(list(series))).digest()[:8], "big") >> 1


class SeriesNumbers:
    """Numbers of what calls have in common, remembered. Belongs to one thread."""

    def __init__(self) -> None:
        self._known: dict[CallSeries, int] = {}

    def of(self, series: CallSeries) -> int:
        """As :func:`series_number`."""
        number = self._known.get(series)
        if number is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            number = self._known[series] = series_number(series)
        return number


class BatchSums:
    """What the calls of a batch have in common, and their sums by that and by quarters of an hour."""

    def __init__(self, numbers: SeriesNumbers) -> None:
        self.series: dict[CallSeries, int] = {}
        """What calls that were added have in common, with its numbers."""
        self._numbers = numbers
        self._sums: dict[tuple[int, CallSeries], list[int]] = {}

    def add(self, entries: Iterable[LedgerEntry], nothing: int | None = None) -> list[tuple[Any, ...]]:
        """Adds calls up, and returns their rows in the order of the table's columns. ``nothing`` stands for what is not
        known; where that is a number, so do 0 and 1 for truth values."""
        rows: list[tuple[Any, ...]] = []
        yes, no = (True, False) if nothing is None else (1, 0)
        current: CallSeries | None = None
        begin = end = number = 0
        sums: list[int] = []
        for entry in entries:
            record = entry.record
            time, request_id, series, attempts, status, prompt, cached, answer = record[:8]
            reasoning, estimated, cost, ms, first_token_ms, admitted_ms, steps = record[8:15]
            if series is not current or not begin <= time < end:  # many calls in a row mostly share their sums
                begin = int(time) // QUARTER * QUARTER
                end, current = begin + QUARTER, series
                sums = self._sums_of(begin // QUARTER, series)
                number = self.series[series] = self._numbers.of(series)
            if first_token_ms is None:
                first_token_ms = nothing
            if admitted_ms is None:
                admitted_ms = nothing
            row = entry.id, request_id, number, attempts, status, prompt, cached, answer, reasoning
            times = ms, first_token_ms, admitted_ms, nothing if steps is None else steps
            rows.append((*row, yes if estimated else no, nothing if cost is None else cost, *times))
            sums[0] += 1
            if status >= _FAILED:
                sums[1] += 1
            sums[2] += prompt
            sums[3] += cached
            sums[4] += answer
            sums[5] += reasoning
            if estimated:
                sums[6] += 1
            if cost is None:
                sums[8] += 1
            else:
                sums[7] += cost
            sums[9] += int(ms + 0.5)
        return rows

    def add_late(self, late: Iterable[LateCost]) -> None:
        """Adds costs of calls that had none."""
        for each in late:
            record = each.entry.record
            sums = self._sums_of(int(record.time) // QUARTER, record.series)
            sums[7] += each.cost or 0
            sums[8] -= 1

    def by_key(self) -> Sums:
        """What is added to the table of all quarters."""
        return _merged(((quarter, *series[:5]), sums) for (quarter, series), sums in self._sums.items())

    def by_tag(self) -> Sums:
        """What is added to the table of tags; calls with several count under each."""
        return _merged(
            ((quarter, series.tenant, series.user, tag), sums)
            for (quarter, series), sums in self._sums.items()
            for tag in series.tags
        )

    def _sums_of(self, quarter: int, series: CallSeries) -> list[int]:
        sums = self._sums.get((quarter, series))
        if sums is None:
            sums = self._sums[quarter, series] = [0] * len(SUMS)
        return sums


def by_day(sums: Sums) -> Sums:
    """``sums`` of quarters by days of UTC."""
    return _merged(((key[0] // QUARTERS_A_DAY, *key[1:]), values) for key, values in sums.items())


def by_tenant(sums: Sums) -> Sums:
    """``sums`` by quarters and tenants alone."""
    return _merged((key[:2], values) for key, values in sums.items())


def _merged(sums: Iterable[tuple[tuple[Any, ...], list[int]]]) -> Sums:
    merged: Sums = {}
    for key, values in sums:
        known = merged.get(key)
        merged[key] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return merged
