"""The same question to several shards at once, and what is said when some do not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextvars import copy_context
from typing import TypeVar

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.service.vdb.sharded.shard import Shard

Answer = TypeVar("Answer")
_ROUNDS = 4
"""Calls that may be under way on each shard at a time; further ones wait."""


class Scatter:
    """Asks the shards of the collection ``name`` on threads of its own. Safe to call from several threads."""

    def __init__(self, name: str, shards: Sequence[Shard], timeout: float) -> None:
        """``timeout``: seconds that a shard has for an answer."""
        self._name = name
        self._shards = list(shards)
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_ROUNDS * len(shards), thread_name_prefix=f"shards of {name}")

    def __len__(self) -> int:
        return len(self._shards)

    def ask(
        self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None
    ) -> tuple[dict[int, Answer], dict[int, Exception]]:
        """``(answers, failures)`` by the shard's place. ``among``: none: all."""
        places = range(len(self._shards)) if among is None else among
        until = time.monotonic() + self._timeout
        # In the caller's context: within a service's method, its deadline holds for these calls, too.
        asked = {place: self._threads.submit(copy_context().run, call, place, self._shards[place]) for place in places}
        answers: dict[int, Answer] = {}
        failures: dict[int, Exception] = {}
        for place, future in asked.items():
            try:
                answers[place] = self._result(future, until)
            except Exception as exc:
                failures[place] = exc
        return answers, failures

    def _result(self, future: Future[Answer], until: float) -> Answer:
        try:
            return future.result(max(0.0, until - time.monotonic()))
        except NotYet:
            if future.done():
                raise  # the call's own
            future.cancel()
            raise Unavailable(f"it did not answer within {self._timeout:g} s") from None

    def all(self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None) -> dict[int, Answer]:
        """Every answer. Raises what a shard says against the request, and :class:`Unavailable` that names the shards
        that failed."""
        answers, failures = self.ask(call, among)
        if failures:
            raise self.refusal(failures)
        return answers

    def refusal(self, failures: Mapping[int, Exception]) -> Exception:
        """What to raise for these: a fault of the request as it was said, else the shards that failed, by place."""
        for place in sorted(failures):
            if at_fault(failures[place]):
                return failures[place]
        refusal = Unavailable(
            f"collection '{self._name}': {self.said(failures)}; an answer without it would not be whole: see that all "
            "shards run, then try again",
            code="shard_unavailable",
        )
        refusal.__cause__ = failures[min(failures)]
        return refusal

    def said(self, failures: Mapping[int, Exception]) -> str:
        """Which shards failed, and how."""
        found = (f"shard {place} of {len(self)} failed ({_reason(failures[place])})" for place in sorted(failures))
        return ", ".join(found)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def at_fault(exc: Exception) -> bool:
    """Whether it tells of the request, not of the shard."""
    return isinstance(exc, InvalidRequest | NotFound | Conflict)


def _reason(exc: Exception) -> str:
    said = exc.message if isinstance(exc, SageError) else f"{type(exc).__name__}: {exc}"
    return said.partition("\n")[0]
