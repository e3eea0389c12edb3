"""How often passwords may be guessed: a growing delay, and places that stay free for others' logins.

A failed login counts three times: for its account from its address, for the account from everywhere, and for the
address at every account. Each count has its own delay. An account from one address is delayed for up to a minute; the
other two, which hold off guesses from many addresses and at many accounts, for up to ten seconds and not at all where
that account has logged in from that address before: so nobody can lock a user out of the places they log in from.
Names that do not exist are treated as those that do.

Several gateways may share the counts and the places. While those cannot be asked, each gateway's own hold, and more
strictly: after half as many failures, and with delays twice as long.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from sage.errors import AuthenticationFailed, RateLimited
from sage.middleware.auth.user_names import account_of

_CAPACITY = 10_000  # entries of each kind; those that were not used for longest go
_FORGET_AFTER = 900.0  # seconds since the last failure

PER_ACCOUNT = 4
"""Logins of one account that are checked at one time."""
PER_ADDRESS = 4
"""Logins from one address that are checked at one time, of accounts that have not logged in from there before."""
IN_ALL = 8
"""Logins that are checked at one time: so many of accounts that have logged in from their address before, and so many
of others. :class:`Passwords` has places for both."""

BOUNDS = ((5, 60.0), (20, 10.0), (20, 10.0))
"""Of an account from one address, an account, and an address: failures without a delay, and its most seconds."""


class SharedCounts(Protocol):
    """Failures and places of logins that several gateways count together. Neither an account nor an address shows."""

    async def ask(self, account: str, address: str, is_known: bool) -> tuple[float, bool] | None:
        """Seconds to wait, and whether ``account`` has logged in from ``address`` before (surely if ``is_known``).

        If there is nothing to wait for, a failure is counted, before it is known. ``None`` means that the counts
        cannot be asked now, which takes a tenth of a second at most.
        """
        ...

    def take_back(self, account: str, address: str, *, is_success: bool) -> None:
        """What :meth:`ask` has counted was no failure; a success forgets the others of the account from there, too."""
        ...


@dataclass(slots=True)
class _Count:
    failures: int
    last: float


class FailureDelays:
    """Delays after failures: none for the first ``free`` of them, then 1, 2, 4… seconds up to ``longest``."""

    def __init__(self, free: int, longest: float) -> None:
        self._free = free
        self._longest = longest
        self._counts: OrderedDict[Hashable, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def wait(self, key: Hashable, now: float, *, strictly: bool = False) -> float:
        """Seconds until the next try is allowed; ``strictly`` after half as many failures, and twice as long."""
        count = self._counts.get(key)
        free, times = (self._free // 2, 2.0) if strictly else (self._free, 1.0)
        if count is None or count.failures < free:
            return 0.0
        if now - count.last >= _FORGET_AFTER:
            del self._counts[key]
            return 0.0
        delay = times * min(2.0 ** min(count.failures - free, 30), self._longest)
        return max(0.0, count.last + delay - now)

    def failed(self, key: Hashable, now: float) -> None:
        count = self._counts.setdefault(key, _Count(0, now))
        count.failures, count.last = count.failures + 1, now
        self._counts.move_to_end(key)
        if len(self._counts) > _CAPACITY:
            self._counts.popitem(last=False)

    def take_back(self, key: Hashable, *, all_of_them: bool = False) -> None:
        """The newest failure was none; ``all_of_them`` forgets the others too."""
        count = self._counts.get(key)
        if count is None:
            return
        count.failures -= 1
        if all_of_them or count.failures <= 0:
            del self._counts[key]


class LoginThrottle:
    """Decides which logins are checked; belongs to one event loop. Its memory is bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs, self._accounts, self._addresses = (FailureDelays(free, longest) for free, longest in BOUNDS)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._checked: Counter[Hashable] = Counter()
        """By account, by address, and in all: how many are checked now."""
        self.on_failure: Callable[[str, str], None] | None = None
        """Told of each wrong password: the account and the address. It must not wait."""
        self.shared: SharedCounts | None = None
        """``None``: nobody shares the counts of this process."""

    async def attempt(self, name: str, address: str) -> AbstractContextManager[None]:
        """``with await throttle.attempt(name, address):`` around the check of a password, which raises
        :class:`AuthenticationFailed` when it is wrong. Raises :class:`RateLimited` when it is not to be checked now."""
        account = account_of(name)
        if self.shared is None:
            return self._attempt(account, address, self._own_wait(account, address), None)
        told = await self.shared.ask(account, address, (account, address) in self._known)
        if told is None:
            return self._attempt(account, address, self._own_wait(account, address, strictly=True), None)
        wait, is_known = told
        if is_known:
            self._remember((account, address))  # it is to count when the others cannot be asked, too
        return self._attempt(account, address, wait, self.shared)

    def _own_wait(self, account: str, address: str, *, strictly: bool = False) -> float:
        """Seconds to wait by the counts of this process."""
        now, pair = self._clock(), (account, address)
        wait = self._pairs.wait(pair, now, strictly=strictly)
        if pair in self._known:
            return wait
        others = ((self._accounts, account), (self._addresses, address))
        return max(wait, *(delays.wait(key, now, strictly=strictly) for delays, key in others))

    @contextmanager
    def _attempt(self, account: str, address: str, wait: float, shared: SharedCounts | None) -> Iterator[None]:
        """``shared`` has counted a failure, unless there is something to ``wait`` for."""
        if wait > 0:
            raise RateLimited("too many failed logins; try again later", retry_after=wait, code="too_many_logins")
        try:
            with self._place(account, address), self._counted(account, address):
                yield
        except AuthenticationFailed:
            if self.on_failure is not None:
                self.on_failure(account, address)
            raise
        except Exception:
            if shared is not None:
                shared.take_back(account, address, is_success=False)  # it was not checked
            raise
        else:
            if shared is not None:
                shared.take_back(account, address, is_success=True)
            self._remember((account, address))

    @contextmanager
    def _counted(self, account: str, address: str) -> Iterator[None]:
        """Counts in this process, also while others share their counts: its own hold when those cannot be asked."""
        counted = ((self._pairs, (account, address)), (self._accounts, account), (self._addresses, address))
        now = self._clock()
        for delays, key in counted:
            delays.failed(key, now)  # at once: others may come before it is known
        try:
            yield
        except AuthenticationFailed:
            raise
        except Exception:
            for delays, key in counted:
                delays.take_back(key)  # it was not checked
            raise
        else:
            for delays, key in counted:
                delays.take_back(key, all_of_them=delays is self._pairs)

    @contextmanager
    def _place(self, account: str, address: str) -> Iterator[None]:
        """One of the places of logins that are checked."""
        places = _places(account, address, (account, address) in self._known)
        if any(self._checked[place] >= most for place, most in places.items()):
            raise RateLimited(
                "too many logins at this moment; try again in a second", retry_after=1.0, code="too_many_logins"
            )
        self._checked.update(places.keys())
        try:
            yield
        finally:
            for place in places:
                self._checked[place] -= 1
                if not self._checked[place]:
                    del self._checked[place]

    def _remember(self, pair: tuple[str, str]) -> None:
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)


def _places(account: str, address: str, is_known: bool) -> dict[Hashable, int]:
    """What a login takes one place of, and how many places that has."""
    places: dict[Hashable, int] = {("account", account, is_known): PER_ACCOUNT, is_known: IN_ALL}
    return places if is_known else {**places, ("address", address): PER_ADDRESS}
