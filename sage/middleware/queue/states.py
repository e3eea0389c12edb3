"""The states of a job and of an item, and every transition between them."""

from __future__ import annotations

from typing import Final

QUEUED: Final = "queued"
RUNNING: Final = "running"
CANCELLING: Final = "cancelling"
CANCELLED: Final = "cancelled"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
DEAD: Final = "dead"

TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    QUEUED: frozenset({RUNNING, CANCELLED, FAILED, DEAD}),  # claimed, cancelled, rights lost or expired
    RUNNING: frozenset({QUEUED, CANCELLING, SUCCEEDED, FAILED, DEAD}),  # QUEUED: its worker is gone
    CANCELLING: frozenset({CANCELLED, SUCCEEDED, FAILED}),  # whatever its worker was quicker to do
    CANCELLED: frozenset({QUEUED}),  # retried, as below
    SUCCEEDED: frozenset({QUEUED}),  # with failed items only
    FAILED: frozenset({QUEUED}),
    DEAD: frozenset({QUEUED}),
}
"""state -> the states that may follow it."""

UNFINISHED: Final = (QUEUED, RUNNING, CANCELLING)
HELD_BY_RUN: Final = (RUNNING, CANCELLING)
"""States in which a worker has the job."""
ENDED: Final = (SUCCEEDED, FAILED, DEAD, CANCELLED)
STATES: Final = (*UNFINISHED, *ENDED)

ITEM_WAITING: Final = 0
ITEM_LEASED: Final = 1
ITEM_DONE: Final = 2
ITEM_FAILED: Final = 3

ITEM_TRANSITIONS: Final[dict[int, frozenset[int]]] = {
    ITEM_WAITING: frozenset({ITEM_LEASED, ITEM_DONE, ITEM_FAILED}),  # a late result counts too
    ITEM_LEASED: frozenset({ITEM_WAITING, ITEM_DONE, ITEM_FAILED}),  # ITEM_WAITING: its run has ended without it
    ITEM_DONE: frozenset(),  # the first result counts
    ITEM_FAILED: frozenset({ITEM_WAITING}),  # retried
}
"""An item that nobody has leased yet has no row."""

HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2
PRIORITIES: Final = {"high": HIGH, "normal": NORMAL, "low": LOW}
