"""Passwords: their bounds, their argon2id hashes, and a bound on how many are hashed at once."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from sage.errors import InvalidRequest, RateLimited
from sage.middleware.auth.common_passwords import require_uncommon
from sage.thread_pool import ThreadPool

MIN_LENGTH = 15
MAX_LENGTH = 128

_RAW_LIMIT = 4 * MAX_LENGTH  # characters as they were sent: normalisation may compose several into one

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HashCost:
    """What one argon2id hash costs: its memory in KiB, the passes over it, and its lanes.

    The default is one of OWASP's equal choices (Password Storage Cheat Sheet) and takes 50 to 80 ms. No setting and no
    request changes it; tests hand in less. A hash of another cost is made anew when its user logs in.
    """

    memory_kib: int = 46 * 1024
    passes: int = 1
    lanes: int = 1


class Passwords:
    """Hashes and checks passwords.

    ``hash`` and ``verify`` block for tens of milliseconds and take 46 MiB: a server calls what needs them through
    :meth:`run`. At most ``running`` of its calls run at once and ``waiting`` more wait; ``taken`` counts both.
    """

    def __init__(self, cost: HashCost | None = None, *, running: int = 2, waiting: int = 16) -> None:
        self._cost = cost = cost or HashCost()
        # For users that do not exist: a hash of the same cost, of no known password.
        self._nobody = f"$argon2id$v=19$m={cost.memory_kib},t={cost.passes},p={cost.lanes}${'A' * 22}${'A' * 43}"
        self._threads = ThreadPool(running, "sage-passwords")
        self._limit = running + waiting
        self.taken = 0

    @cached_property
    def _scheme(self) -> Any:
        # Here, since no password is hashed at the start: passlib is a hundredth of it.
        from passlib.hash import argon2

        cost = self._cost
        return argon2.using(type="ID", memory_cost=cost.memory_kib, rounds=cost.passes, parallelism=cost.lanes)

    def close(self) -> None:
        """Ends the threads; calls that wait are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def hash_new(self, password: str, about: Iterable[str]) -> str:
        """The hash of a password that a user gets; ``about`` are texts such as the user's name.

        Raises :class:`InvalidRequest` when it is out of bounds or easily guessed
        (:mod:`sage.middleware.auth.common_passwords`).
        """
        _check_bounds(password)
        require_uncommon(password, about)
        return self.hash(password)

    def hash(self, password: str) -> str:
        """The argon2id hash of a password; raises :class:`InvalidRequest` when it is out of bounds."""
        _check_bounds(password)
        return str(self._scheme.hash(_normalise(password)))

    def verify(self, password: str, stored: str | None) -> bool:
        """Whether ``stored`` is the hash of ``password``; takes as long when it is ``None``."""
        if _fault(password) is not None:
            return False  # no user has such a password: a quick answer tells nothing about this one
        try:
            is_right = bool(self._scheme.verify(_normalise(password), stored or self._nobody))
        except (ValueError, TypeError):
            is_right = False  # a hash of another scheme, or a damaged one
        return is_right and stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Whether ``stored`` was made at another cost than today's."""
        return bool(self._scheme.needs_update(stored))

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a blocking function that hashes on a thread, when its turn comes.

        Raises :class:`RateLimited` when too many wait. Only one event loop may call it.
        """
        if self.taken >= self._limit:
            raise RateLimited(
                "too many logins at this moment; try again in a second", retry_after=1.0, code="too_many_logins"
            )
        loop, context = asyncio.get_running_loop(), copy_context()
        self.taken += 1
        try:
            future = self._threads.submit(lambda: context.run(function, *args, **kwargs))
        except BaseException:
            self.taken -= 1
            raise

        def count_down(_: Future[T]) -> None:
            # Not when the caller gives up: its thread runs on until the work has ended.
            with suppress(RuntimeError):  # the loop has ended, and the server with it
                loop.call_soon_threadsafe(self._count_down)

        future.add_done_callback(count_down)
        return await asyncio.wrap_future(future)

    def _count_down(self) -> None:
        self.taken -= 1


def _normalise(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _check_bounds(password: str) -> None:
    fault = _fault(password)
    if fault is not None:
        raise InvalidRequest(fault, param="password", code="invalid_password")


def _fault(password: str) -> str | None:
    """What is wrong with a password, without a word of it."""
    if len(password) > _RAW_LIMIT:
        return f"a password has at most {MAX_LENGTH} characters"
    try:
        password.encode("utf-8")
    except UnicodeEncodeError:
        return "the password is not valid Unicode text"
    text = _normalise(password)
    if len(text) < MIN_LENGTH:
        return f"the password has {len(text)} characters and needs at least {MIN_LENGTH}; a few words make a good one"
    if len(text) > MAX_LENGTH:
        return f"the password has {len(text)} characters; at most {MAX_LENGTH} are allowed"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "the password has a control character, such as a tab or a line end"
    return None
