"""One call to several shards at once, and the error when some do not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import copy_context
from typing import TypeVar, cast

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.forks import forks
from sage.service.vdb.sharded.shard import Shard
from sage.thread_pool import ThreadPool

Answer = TypeVar("Answer")
_ROUNDS = 4
"""Calls that may be under way on each shard at a time; further ones wait."""


class Scatter:
    """Calls the shards of the collection ``name`` on threads of its own. Safe to call from several threads."""

    def __init__(self, name: str, shards: Sequence[Shard], timeout: float) -> None:
        """``timeout``: seconds that a shard has for an answer."""
        self._name = name
        self._shards = list(shards)
        self._timeout = timeout
        self._closed = False
        self._forks = forks.count
        self._threads = ThreadPool(_ROUNDS * len(shards), f"shards of {name}")

    def __len__(self) -> int:
        return len(self._shards)

    def ask(
        self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None, timeout: float | None = None
    ) -> tuple[dict[int, Answer], dict[int, Exception]]:
        """``(answers, failures)`` by the shard's index. ``among`` are the shards to call; ``None`` means all.
        ``timeout``: seconds for this call, where it takes longer than others."""
        if self._forks != forks.count:
            raise Unavailable(
                f"the shards of collection '{self._name}' run in the process that this one was forked from; open it "
                "after the fork, or start processes with the method 'spawn' (multiprocessing.set_start_method)",
                code="forked",
                retry_after=None,
            )
        if self._closed:
            raise NotFound(f"collection '{self._name}' is closed", param="collection", code="collection_not_found")
        indexes = range(len(self._shards)) if among is None else among
        shards = self._shards if timeout is None else [_patient(shard, timeout) for shard in self._shards]
        seconds = timeout or self._timeout
        until = time.monotonic() + seconds
        # In the caller's context: within a service's method, its deadline holds for these calls, too.
        futures = {index: self._threads.submit(copy_context().run, call, index, shards[index]) for index in indexes}
        answers: dict[int, Answer] = {}
        failures: dict[int, Exception] = {}
        for index, future in futures.items():
            try:
                answers[index] = _result(future, until, seconds)
            except Exception as exc:
                failures[index] = exc
        return answers, failures

    def all(
        self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None, timeout: float | None = None
    ) -> dict[int, Answer]:
        """Every answer. Raises a shard's error about the request, and :class:`Unavailable` that names the shards that
        failed."""
        answers, failures = self.ask(call, among, timeout)
        if failures:
            raise self.refusal(failures)
        return answers

    def refusal(self, failures: Mapping[int, Exception]) -> Exception:
        """The error to raise for these: an error about the request as it is, else one that names the shards."""
        for index in sorted(failures):
            if is_of_request(failures[index]):
                return failures[index]
        refusal = Unavailable(
            f"collection '{self._name}': {self.explain(failures)}; an answer without it would not be whole: see "
            "that all shards run, then try again",
            code="shard_unavailable",
        )
        refusal.__cause__ = failures[min(failures)]
        return refusal

    def explain(self, failures: Mapping[int, Exception]) -> str:
        """Which shards failed, and why."""
        return ", ".join(
            f"shard {index} of {len(self)} failed ({_reason(failures[index])})" for index in sorted(failures)
        )

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_of_request(exc: Exception) -> bool:
    """Whether the request is at fault, and not the shard."""
    return isinstance(exc, InvalidRequest | NotFound | Conflict)


def _reason(exc: Exception) -> str:
    message = exc.message if isinstance(exc, SageError) else f"{type(exc).__name__}: {exc}"
    return message.partition("\n")[0]


def _result(future: Future[Answer], until: float, seconds: float) -> Answer:
    try:
        return future.result(max(0.0, until - time.monotonic()))
    except FutureTimeout:
        if future.done():
            raise  # the call's own
        future.cancel()
        raise Unavailable(f"it did not answer within {seconds:g} s") from None


def _patient(shard: Shard, timeout: float) -> Shard:
    """The same shard, whose calls may take ``timeout`` seconds: a proxy of a service has a bound of its own."""
    options = getattr(shard, "options", None)
    return cast(Shard, options(timeout=timeout)) if callable(options) else shard
