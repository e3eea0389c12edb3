"""Items of a job of many: leased to the job's one run, in order, and recorded once.

An item that went down with a worker comes back in a group of at most eight, after a second time alone, when all others
are done: so a line that kills its worker is told from those that were there by chance. The third time it fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, BinaryIO

import orjson
from sqlalchemy import bindparam, insert, select, update

from sage.errors import InvalidRequest
from sage.middleware.queue.jobs.job_files import BOM, JobFiles
from sage.middleware.queue.jobs.rows import MOST_DELIVERIES, change
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.models import job_items, jobs
from sage.middleware.queue.records import ItemLease, LeasedItem, ResultLine, StoredJob
from sage.middleware.queue.states import (
    CANCELLING,
    ITEM_DONE,
    ITEM_FAILED,
    ITEM_LEASED,
    ITEM_TRANSITIONS,
    ITEM_WAITING,
)

MOST_LEASED = 32
_SMALL_GROUP = 8
_MOST_INLINE = 2**18
"""Bytes of a result that is kept in the row of its job."""
_HIGHEST_INDEX = 2**63 - 1

_i = job_items.c
_OF_JOB = _i.job == bindparam("of_job")
_CURSOR = select(jobs.c.next_index, jobs.c.next_offset, jobs.c.input).where(jobs.c.sequence == bindparam("of_job"))
_NEXT_INDEX = select(jobs.c.next_index).where(jobs.c.sequence == bindparam("of_job"))
_WAITING = (
    select(_i.number, _i.input_at, _i.input_size, _i.strikes)
    .where(_OF_JOB, _i.state == ITEM_WAITING)
    .order_by(_i.strikes, _i.number)
    .limit(bindparam("most"))
)
_LEASED = select(_i.number, _i.input_at, _i.input_size).where(_OF_JOB, _i.state == ITEM_LEASED).order_by(_i.number)
_ANY_LEASED = select(_i.number).where(_OF_JOB, _i.state == ITEM_LEASED).limit(1)
_LEASE = update(job_items).where(_OF_JOB, _i.number == bindparam("at")).values(state=ITEM_LEASED)
_INSERT = insert(job_items)
_RECORD = (
    update(job_items)
    .where(_OF_JOB, _i.number == bindparam("at"))
    .values(
        state=bindparam("to_state"),
        result_at=bindparam("to_result_at"),
        result_size=bindparam("to_result_size"),
        line_start=bindparam("to_line_start"),
    )
)
_ONE = select(_i.input_at, _i.input_size).where(_OF_JOB, _i.number == bindparam("at"))
_OPEN_ITEMS = tuple(state for state, after in ITEM_TRANSITIONS.items() if ITEM_DONE in after)
"""States in which a result counts."""

_Range = tuple[int, int, int]
"""An item's number, and its bytes in the input: from where, how many."""


def lease(
    transaction: Transaction, files: JobFiles, job: StoredJob, count: int, in_hand: Collection[int] | None = None
) -> ItemLease:
    """Up to ``count`` items for the job's run, at most :data:`MOST_LEASED`; first those that it has leased and that are
    not ``in_hand``."""
    if job.state == CANCELLING:
        return ItemLease([], _has_open(job))  # its worker is to hear of that with the next renewal
    count = max(1, min(count, MOST_LEASED))
    index, offset, inline = transaction.connection.execute(_CURSOR, {"of_job": job.sequence}).one()
    with files.open_input(job.id, inline) as source:
        ranges = [] if in_hand is None else _unheard(transaction, job, in_hand)[:count]
        if not ranges:
            ranges = _returned(transaction, job, count)
        if not ranges:
            job, ranges = _fresh(transaction, job, source, (index, offset), count)
        if not ranges:
            ranges = _suspect(transaction, job)
        items = [LeasedItem(number, _read(source, at, size)) for number, at, size in ranges]
    return ItemLease(items, _has_open(job))


def _has_open(job: StoredJob) -> bool:
    """Whether items have no result yet."""
    return job.total is None or job.done + job.failed < job.total


def _unheard(transaction: Transaction, job: StoredJob, in_hand: Collection[int]) -> list[_Range]:
    """Items that the run has leased without hearing of it."""
    found = transaction.connection.execute(_LEASED, {"of_job": job.sequence}).all()
    return [(row[0], row[1], row[2]) for row in found if row[0] not in in_hand]


def _returned(transaction: Transaction, job: StoredJob, count: int) -> list[_Range]:
    """Items that a run before this one gave back, or lost once."""
    found = transaction.connection.execute(_WAITING, {"of_job": job.sequence, "most": count}).all()
    strikes = found[0].strikes if found else 0
    if strikes >= MOST_DELIVERIES - 1:
        return []
    most = count if strikes == 0 else min(count, _SMALL_GROUP)
    return _take(transaction, job, [(row[0], row[1], row[2]) for row in found[:most] if row.strikes == strikes])


def _suspect(transaction: Transaction, job: StoredJob) -> list[_Range]:
    """An item that went down with two workers, once nothing runs beside it."""
    if transaction.connection.execute(_ANY_LEASED, {"of_job": job.sequence}).one_or_none() is not None:
        return []
    found = transaction.connection.execute(_WAITING, {"of_job": job.sequence, "most": 1}).all()
    return _take(transaction, job, [(row[0], row[1], row[2]) for row in found])


def _take(transaction: Transaction, job: StoredJob, ranges: list[_Range]) -> list[_Range]:
    if ranges:
        transaction.connection.execute(_LEASE, [{"of_job": job.sequence, "at": number} for number, _, _ in ranges])
    return ranges


def _fresh(
    transaction: Transaction, job: StoredJob, source: BinaryIO, cursor: tuple[int, int], count: int
) -> tuple[StoredJob, list[_Range]]:
    """Items that nobody has had yet: their rows are made now."""
    index, offset = cursor
    if job.total is not None:
        count = min(count, job.total - index)
    if count <= 0:
        return job, []
    ranges, end, is_all = next_lines(source, index, offset, count)
    if ranges:
        rows = [
            {"job": job.sequence, "number": n, "state": ITEM_LEASED, "strikes": 0, "input_at": at, "input_size": size}
            for n, at, size in ranges
        ]
        transaction.connection.execute(_INSERT, rows)
    values: dict[str, Any] = {"next_index": index + len(ranges), "next_offset": end}
    if is_all:
        values["total"] = index + len(ranges)
    return change(transaction, job, **values), ranges


def next_lines(source: BinaryIO, index: int, offset: int, count: int) -> tuple[list[_Range], int, bool]:
    """The ranges of the next lines that are not blank, where they end, and whether the input ends there."""
    source.seek(offset)
    if offset == 0 and source.read(len(BOM)) == BOM:
        offset = len(BOM)
    source.seek(offset)
    ranges: list[_Range] = []
    while len(ranges) < count:
        line = source.readline()
        if not line:
            return ranges, offset, True
        if body := line.strip():
            ranges.append((index + len(ranges), offset + line.index(body[:1]), len(body)))
        offset += len(line)
    return ranges, offset, False


def only_line(content: bytes) -> bytes:
    """The line of an input that has one."""
    return content.removeprefix(BOM).strip()


def columns_of_only(transaction: Transaction, job: StoredJob, lines: Sequence[ResultLine]) -> dict[str, Any] | None:
    """The columns of a job with the result of its only item, which nobody has leased. ``None`` means that it is to be
    recorded as others are."""
    if job.total != 1 or job.errors_apart or len(lines) != 1 or lines[0].index or job.done + job.failed:
        return None
    line = lines[0]
    _check_lines(lines)
    if len(line.line) > _MOST_INLINE or transaction.connection.scalar(_NEXT_INDEX, {"of_job": job.sequence}):
        return None
    usage = sum_usage(job.usage, [line.usage] if line.usage else [])
    return {"line": line.line, "done": int(line.ok), "failed": int(not line.ok), "usage": usage, "strikes": 0}


def _read(source: BinaryIO, at: int, size: int) -> bytes:
    source.seek(at)
    return source.read(size)


def read_item(transaction: Transaction, files: JobFiles, job: StoredJob, number: int) -> bytes | None:
    """The line of an item that was leased once, or claimed with its job; ``None`` means that there is none."""
    found = transaction.connection.execute(_ONE, {"of_job": job.sequence, "at": number}).one_or_none()
    if found is None and (job.total != 1 or number):
        return None
    inline = transaction.connection.execute(_CURSOR, {"of_job": job.sequence}).one().input
    with files.open_input(job.id, inline) as source:
        return only_line(source.read()) if found is None else _read(source, found.input_at, found.input_size)


def record(
    transaction: Transaction, files: JobFiles, job: StoredJob, lines: Sequence[ResultLine], lease_until: float | None
) -> StoredJob:
    """Takes the results of items that have none yet. With ``lease_until`` it renews the lease too."""
    _check_lines(lines)
    if _is_of_only(job, lines) and not transaction.connection.scalar(_NEXT_INDEX, {"of_job": job.sequence}):
        lease(transaction, files, job, 1)  # it was claimed with the job
    open_lines = _without_result(transaction, job, lines)
    spooled, rows = [], []
    place = 0
    for line in open_lines:
        entry, start = _entry(line)
        state = ITEM_DONE if line.ok else ITEM_FAILED
        rows.append({"of_job": job.sequence, "at": line.index, "to_state": state, "to_result_at": place})
        rows[-1] |= {"to_result_size": len(entry) - 1, "to_line_start": start}
        spooled.append(entry)
        place += len(entry)
    values: dict[str, Any] = {} if lease_until is None else {"lease_until": lease_until}
    if rows:
        base = transaction.append(files.spool(job.id), b"".join(spooled))
        for row in rows:
            row["to_result_at"] += base
        transaction.connection.execute(_RECORD, rows)
        done = sum(line.ok for line in open_lines)
        values |= {"done": job.done + done, "failed": job.failed + len(rows) - done, "strikes": 0}
        values["usage"] = sum_usage(job.usage, (line.usage for line in open_lines if line.usage))
    return change(transaction, job, **values) if values else job


def _is_of_only(job: StoredJob, lines: Sequence[ResultLine]) -> bool:
    """Whether the result of the job's only item is among them. Others must not lease it: nobody would ask for it."""
    return job.total == 1 and any(line.index == 0 for line in lines)


def _without_result(transaction: Transaction, job: StoredJob, lines: Sequence[ResultLine]) -> list[ResultLine]:
    first = {line.index: line for line in reversed(lines) if 0 <= line.index <= _HIGHEST_INDEX}
    wanted = select(_i.number).where(_i.job == job.sequence, _i.state.in_(_OPEN_ITEMS), _i.number.in_(first))
    return [first[number] for number in transaction.connection.scalars(wanted)]


def _check_lines(lines: Sequence[ResultLine]) -> None:
    for line in lines:
        if b"\n" in line.line:
            raise InvalidRequest(f"the result of item {line.index} is more than one line", param="line")


def _entry(result: ResultLine) -> tuple[bytes, int]:
    """A line of the spool, and where in it the user's line begins."""
    usage = b"null" if result.usage is None else orjson.dumps(result.usage)
    head = b'{"index":%d,"ok":%s,"usage":%s,"line":' % (result.index, b"true" if result.ok else b"false", usage)
    return b"%s%s}\n" % (head, result.line), len(head)


def sum_usage(total: Mapping[str, Any], more: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of the numbers of the same name."""
    sums = dict(total)
    for usage in more:
        for name, value in usage.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                total_of = sums.get(name, 0) + value
                sums[name] = total_of if isfinite(total_of) else sums.get(name, 0)
    return sums


_GIVE_BACK = update(job_items).where(_OF_JOB, _i.state == ITEM_LEASED).values(state=ITEM_WAITING)
_LOSE = _GIVE_BACK.values(strikes=_i.strikes + 1)
_FAIL_LOST = (
    update(job_items)
    .where(_OF_JOB, _i.state == ITEM_LEASED, _i.strikes >= MOST_DELIVERIES - 1)
    .values(state=ITEM_FAILED, strikes=_i.strikes + 1)
)
_RESET = (
    update(job_items)
    .where(_OF_JOB, _i.state.in_((ITEM_FAILED, ITEM_LEASED)))
    .values(state=ITEM_WAITING, strikes=0, result_at=None, result_size=None, line_start=None)
)


def give_back(transaction: Transaction, job: StoredJob) -> None:
    """The job's run is over, by its own will: its items wait again."""
    transaction.connection.execute(_GIVE_BACK, {"of_job": job.sequence})


def lose(transaction: Transaction, job: StoredJob) -> StoredJob:
    """The job's run is lost: its items wait again, but those that were lost too often fail."""
    of_job = {"of_job": job.sequence}
    failed = transaction.connection.execute(_FAIL_LOST, of_job).rowcount
    transaction.connection.execute(_LOSE, of_job)
    return change(transaction, job, failed=job.failed + failed, strikes=0) if failed else job


def reset_failed(transaction: Transaction, job: StoredJob) -> None:
    """Items that failed, or have no result, are done again; results that are there stay."""
    transaction.connection.execute(_RESET, {"of_job": job.sequence})
