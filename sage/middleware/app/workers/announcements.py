"""What all fronts must know before a request may be answered by it: rights, models, servers that sleep."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from sage.middleware.app.workers.front_link import FrontLink
from sage.middleware.app.workers.messages import SharedState
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.subjects import NOBODY
from sage.middleware.registry.registry import Registry

_SETTLED_WITHIN = 1.0
"""Seconds that an answer to a change waits for a front. One that does not answer does not go by old rights for longer:
it hears nothing, and then asks for each request."""
_EVERY = 0.25


class Announcements:
    """Tells the fronts what has changed, at once, and four times a second that nothing has."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator | None,
        budgets: Budgets | None,
        links: Callable[[], Iterable[FrontLink]],
        captured: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``captured`` gives the teams whose prompts and answers are kept."""
        self._captured = captured
        self._registry = registry
        self._budgets = budgets
        self._authenticator = authenticator
        self._links = links
        self._numbers = itertools.count(1)
        self._newest = SharedState(0)
        """The first that says what is true now."""
        if authenticator is not None:
            authenticator.on_read = self.announce

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.announce()
            await asyncio.sleep(_EVERY)

    def announce(self) -> None:
        """Tells the present state to all."""
        state = self._state()
        if _facts(state) != _facts(self._newest):
            self._newest = state
        for link in self._links():
            link.tell(state)

    async def settle(self) -> None:
        """Returns once every front goes by what is true now, or has not said so in a second."""
        if _facts(self._state()) != _facts(self._newest):
            self.announce()
        waiting = [taken for link in self._links() if (taken := link.taken(self._newest.number)) is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=_SETTLED_WITHIN)

    def _state(self) -> SharedState:
        authenticator = self._authenticator
        return SharedState(
            next(self._numbers),
            None if authenticator is None else authenticator.revision,
            0.0 if authenticator is None else authenticator.revision_read_at,
            self._registry.changes,
            tuple(sorted(name for name, provider in self._registry.providers.items() if provider.asleep)),
            NOBODY if self._budgets is None else self._budgets.subjects,
            tuple(sorted(self._captured())),
        )


def _facts(state: SharedState) -> tuple[object, ...]:
    return state.revision, state.models, state.asleep, state.budgeted, state.captured
