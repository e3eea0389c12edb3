"""What becomes of a record whose function raised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.workers import FunctionKind, StageFunction

_WORDS = "'fail', 'skip', 'retry', Retry(…), or a function, object or class that takes dead letters"


@dataclass(frozen=True)
class Retry:
    """Runs the record again, up to ``times`` times, after ``pause`` seconds, then twice that and so on up to
    ``longest``; ``then``: what is done when it still raises (``"fail"``, ``"skip"`` or a sink of dead letters)."""

    times: int = 3
    pause: float = 0.1
    then: Any = "fail"
    longest: float = 30.0

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or self.times < 1:
            raise InvalidRequest(f"Retry needs a whole number from 1 as times, not {self.times!r}")
        if not 0 <= self.pause < float("inf") or not 0 <= self.longest < float("inf"):
            raise InvalidRequest(f"Retry needs a pause of 0 seconds or more, not {self.pause!r}")
        if isinstance(self.then, Retry) or self.then == "retry":
            raise InvalidRequest("Retry(then=…) must be 'fail', 'skip' or a sink of dead letters")


@dataclass(frozen=True)
class DeadLetter:
    """A record that a stage could not process: what its sink of dead letters gets."""

    value: Any
    error: BaseException
    stage: str
    attempts: int


@dataclass(frozen=True)
class Policy:
    """``letters``: who takes dead letters; without one, the record is skipped and counted, or the job fails."""

    retry: Retry | None = None
    skips: bool = False
    letters: StageFunction | None = None


def policy_of(on_error: Any, stage: str) -> Policy:
    """Reads ``on_error`` of one stage. Raises :class:`InvalidRequest` when it is none."""
    retry = on_error if isinstance(on_error, Retry) else Retry() if on_error == "retry" else None
    then = retry.then if retry is not None else on_error
    if isinstance(then, str):
        if then not in ("fail", "skip"):
            raise InvalidRequest(f"on_error of '{stage}' must be {_WORDS}, not {then!r}", param="on_error")
        return Policy(retry, skips=then == "skip")
    try:
        return Policy(retry, letters=StageFunction(f"{stage} dead letters", FunctionKind.SINK, then))
    except InvalidRequest as exc:
        raise InvalidRequest(f"on_error of '{stage}' must be {_WORDS}, not {then!r}", param="on_error") from exc


def pause_before(retry: Retry, attempt: int) -> float:
    """Seconds before the attempt of that number, the first again being 1."""
    return float(min(retry.pause * 2.0 ** min(attempt - 1, 60), retry.longest))


Letters = Callable[[DeadLetter], None]
