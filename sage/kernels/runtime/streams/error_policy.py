"""Error policies: what happens to a record whose function raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.stage_function import FunctionKind, StageFunction

_CHOICES = "'fail', 'skip', 'retry', Retry(…), or a function, object or class that takes dead letters"


@dataclass(frozen=True)
class Retry:
    """Processes the record again, up to ``times`` times. It waits ``pause`` seconds before the first retry and doubles
    the pause each time, up to ``longest`` seconds. ``then`` is the policy when the last retry raises too: ``"fail"``,
    ``"skip"`` or a sink of dead letters."""

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

    def pause_before(self, attempt: int) -> float:
        """Seconds to wait before the retry number ``attempt``, from 1."""
        return float(min(self.pause * 2.0 ** min(attempt - 1, 60), self.longest))


@dataclass(frozen=True)
class DeadLetter:
    """A record that the stage ``stage`` could not process, as the sink of dead letters gets it."""

    value: Any
    error: BaseException
    stage: str
    attempts: int


@dataclass(frozen=True)
class Policy:
    """``dead_letters`` is the function that takes dead letters. ``None`` means that the record is skipped and counted
    (``skips``), or that the job fails."""

    retry: Retry | None = None
    skips: bool = False
    dead_letters: StageFunction | None = None


def policy_of(on_error: Any, stage: str) -> Policy:
    """Reads the option ``on_error`` of a stage. Raises :class:`InvalidRequest` when it is not a policy."""
    retry = on_error if isinstance(on_error, Retry) else Retry() if on_error == "retry" else None
    then = retry.then if retry is not None else on_error
    if isinstance(then, str):
        if then not in ("fail", "skip"):
            raise InvalidRequest(f"on_error of '{stage}' must be {_CHOICES}, not {then!r}", param="on_error")
        return Policy(retry, skips=then == "skip")
    try:
        return Policy(retry, dead_letters=StageFunction(f"{stage} dead letters", FunctionKind.SINK, then))
    except InvalidRequest as exc:
        raise InvalidRequest(f"on_error of '{stage}' must be {_CHOICES}, not {then!r}", param="on_error") from exc
