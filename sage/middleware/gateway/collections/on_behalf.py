"""For whom a thread works on a collection, so that what it asks of models is asked in that caller's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from sage.acting_for import acting_for
from sage.middleware.auth.principal import Principal

T = TypeVar("T")


def on_behalf_of(caller: Principal, work: Callable[[], T]) -> Callable[[], T]:
    """``work``, whose calls of models are those of ``caller`` while it runs."""

    def working() -> T:
        token = acting_for.set(caller)
        try:
            return work()
        finally:
            acting_for.reset(token)

    return working


def in_whose_name(principal: Principal) -> Principal:
    """``principal``, which may ask the collection's models, in the name of the caller that the thread works for: usage,
    limits and budgets are that one's."""
    caller: Principal | None = acting_for.get()
    if caller is None:
        return principal
    return replace(
        principal,
        user=caller.user,
        tenant=caller.tenant,
        credential=caller.credential,
        subjects=caller.subjects,
        limits=caller.limits,
        tags=caller.tags,
        request_id=caller.request_id,
    )
