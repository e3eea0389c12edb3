"""Deadlines that travel: a moment of the sender's clock, as the receiver's clock reads it.

``time.monotonic`` is one clock on one machine, and another on each other machine. Sending only the remaining seconds
would give a call its time in transport on top, and a write could take effect after its caller had got an error that it
is too late. So a deadline is sent as a moment of the receiver's clock.
"""

from __future__ import annotations

import math
import os
import platform
import time
import uuid
from pathlib import Path
from typing import Any

_REFRESH = 60.0
"""Seconds after which the actor's clock is read again, before the next deadline is sent."""
_DRIFT = 1e-3
"""Seconds per second by which two clocks may part: NTP slews each of them by half of that at most."""

WireDeadline = list[Any]
"""``[clock id, moment of that clock, seconds that remained when it was sent]``."""


def _clock_id() -> str:
    """Equal in all processes that read the same :func:`time.monotonic`."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode()}"


CLOCK = _clock_id()


class RemoteClock:
    """The clock of an actor's machine, as this process has measured it. Safe for any threads.

    An answer in which the actor gave its time took some time to come, so the difference measured from it is at most the
    true one: a deadline is converted to a moment that is right or a little early, never late (Cristian, "Probabilistic
    clock synchronization", 1989, takes the middle instead). On the same machine the conversion is exact.
    """

    def __init__(self, clock: str) -> None:
        """``clock`` is the id of the actor's clock."""
        measured_at = time.monotonic() if clock == CLOCK else -math.inf
        self._measured = clock, 0.0, measured_at
        """Clock id, its difference to the clock here, and when that was measured; replaced as one."""

    def learn(self, asked_at: float, clock: str, moment: float) -> None:
        """Call it when an answer arrives in which the actor gave the ``moment`` of its clock; ``asked_at`` is the
        moment of the clock here when it was asked."""
        now = time.monotonic()
        difference = moment - now
        if clock == self._measured[0]:
            earlier = self._difference(now)
            if earlier <= moment - asked_at:  # otherwise the actor's clock stood still: its machine was suspended
                difference = max(difference, earlier)
        self._measured = clock, difference, now

    def _difference(self, now: float) -> float:
        _, difference, measured_at = self._measured
        return difference - (now - measured_at) * _DRIFT

    @property
    def is_stale(self) -> bool:
        """Whether it should be read again, also on this machine: the actor may have moved to another one."""
        return time.monotonic() - self._measured[2] > _REFRESH

    def to_wire(self, deadline: float) -> WireDeadline:
        """``deadline``, a moment of the clock here, as it is sent to the actor. An old difference is not used, since it
        would make the deadline too early: then the actor counts the remaining seconds from the arrival."""
        now = time.monotonic()
        clock = self._measured[0]
        if clock == CLOCK:
            return [clock, deadline, deadline - now]
        return [clock, math.inf if self.is_stale else deadline + self._difference(now), deadline - now]


def from_wire(deadline: WireDeadline) -> float:
    """The deadline as a moment of the clock here. When the actor has moved to a machine that the sender does not know
    of yet, only the remaining seconds are known; they are counted from now."""
    clock, moment, remaining = deadline
    latest = time.monotonic() + remaining
    return min(moment, latest) if clock == CLOCK else float(latest)
