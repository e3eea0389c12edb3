"""How fast a job goes, and how long it will take."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

_WINDOW = 30.0  # seconds
_MOST_JOBS = 1000
_MOST_SAMPLES = 60


class ProgressMeter:
    """The rates of jobs that run, from what was finished in the last half minute. Belongs to the event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._samples: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def begin(self, job: str, finished: int) -> None:
        """A job begins to run, or goes on, with ``finished`` items that were finished before."""
        self._samples[job] = deque([(self._monotonic(), finished)], maxlen=_MOST_SAMPLES)
        if len(self._samples) > _MOST_JOBS:
            self._samples.popitem(last=False)

    def note(self, job: str, finished: int) -> None:
        """``finished`` items of a job are finished now."""
        samples = self._samples.get(job)
        if samples is None:
            return self.begin(job, finished)
        now = self._monotonic()
        if now - samples[-1][0] >= 0.5 or len(samples) == 1:
            samples.append((now, finished))
        else:
            samples[-1] = (samples[-1][0], finished)
        while len(samples) > 2 and now - samples[0][0] > _WINDOW:
            samples.popleft()

    def end(self, job: str) -> None:
        """A job does not run any more."""
        self._samples.pop(job, None)

    def rate(self, job: str) -> float | None:
        """Items a second; ``None`` means that it is not known yet."""
        samples = self._samples.get(job)
        if samples is None:
            return None
        (began, before), (_, finished) = samples[0], samples[-1]
        seconds = self._monotonic() - began
        return (finished - before) / seconds if seconds > 0.2 and finished > before else None
