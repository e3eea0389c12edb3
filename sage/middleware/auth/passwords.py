"""Passwords: their bounds, argon2id, and a door that lets two hashings run at once."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from passlib.hash import argon2

from sage.errors import InvalidRequest, RateLimited

MIN_LENGTH = 15
MAX_LENGTH = 128

_MEMORY_KIB = 46 * 1024  # with t=1 and p=1 one of OWASP's equal choices; 50 to 80 ms
_RAW_LIMIT = 4 * MAX_LENGTH  # what is looked at: composing characters make the normal form shorter
# A hash of the same cost that no known password has, for users who do not exist.
_NOBODY = f"$argon2id$v=19$m={_MEMORY_KIB},t=1,p=1${'A' * 22}${'A' * 43}"

P = ParamSpec("P")
T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords.

    ``hash`` and ``verify`` block for tens of milliseconds and take 46 MiB: a server calls what needs them through
    :meth:`run`, of which ``running`` go at once and ``waiting`` more stand in line; ``taken`` counts both.
    """

    def __init__(self, *, running: int = 2, waiting: int = 16) -> None:
        self._scheme = argon2.using(type="ID", memory_cost=_MEMORY_KIB, rounds=1, parallelism=1)
        self._threads = ThreadPoolExecutor(running, "sage-passwords")
        self._places = running + waiting
        self.taken = 0

    def close(self) -> None:
        """Lets the threads go; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def hash(self, password: str) -> str:
        """The argon2id hash of a new password; raises :class:`InvalidRequest` when it is out of bounds."""
        fault = _fault(password)
        if fault is not None:
            raise InvalidRequest(fault, param="password", code="invalid_password")
        return str(self._scheme.hash(_normal(password)))

    def verify(self, password: str, stored: str | None) -> bool:
        """Whether ``password`` is the one behind ``stored``; takes as long when there is none."""
        if _fault(password) is not None:
            return False  # no password is like that: says nothing about the user
        try:
            right = bool(self._scheme.verify(_normal(password), stored or _NOBODY))
        except (ValueError, TypeError):
            right = False  # a hash of another scheme, or a damaged one
        return right and stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Whether ``stored`` was made at another cost than today's."""
        return bool(self._scheme.needs_update(stored))

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a blocking function that hashes, in its turn and off the event loop.

        Raises :class:`RateLimited` when the line is full. Belongs to one event loop.
        """
        if self.taken >= self._places:
            raise RateLimited(
                "too many logins at this moment; try again in a second", retry_after=1.0, code="too_many_logins"
            )
        loop = asyncio.get_running_loop()
        self.taken += 1
        try:
            future = self._threads.submit(function, *args, **kwargs)
        except BaseException:
            self.taken -= 1
            raise

        def leave(_: Future[T]) -> None:
            # A caller that gives up leaves its thread running: the place is free only when the work has ended.
            with suppress(RuntimeError):  # the loop has ended, and the server with it
                loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(leave)
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        self.taken -= 1


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _fault(password: str) -> str | None:
    """What is wrong with a password, without a word of it."""
    if len(password) > _RAW_LIMIT:
        return f"a password has at most {MAX_LENGTH} characters"
    try:
        password.encode("utf-8")
    except UnicodeEncodeError:
        return "the password is not valid Unicode text"
    normal = _normal(password)
    if len(normal) < MIN_LENGTH:
        return f"the password has {len(normal)} characters and needs at least {MIN_LENGTH}; a few words make a good one"
    if len(normal) > MAX_LENGTH:
        return f"the password has {len(normal)} characters; at most {MAX_LENGTH} are allowed"
    if any(unicodedata.category(character) == "Cc" for character in normal):
        return "the password has a control character, such as a tab or a line end"
    return None
