"""Running calls whose rights cannot be looked up for a while."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sage.errors import AuthenticationFailed, SageError, Unavailable
from sage.middleware.app.open_streams import OpenStreams
from sage.middleware.auth.credential_cache import CredentialCache, Verified
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import FIELDS

ANN = replace(LOCAL, user="ann", credential="key:ab12")


class Authority(CredentialCache):
    """Says what it is told to say, and counts the questions."""

    outcome: SageError | None = None
    asked = 0

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(revision=1), time.time)

    async def verify(self, authorization: bytes | None) -> Verified:
        raise NotImplementedError

    async def verify_again(self, authorization: bytes, before: Principal) -> Verified:
        self.asked += 1
        if self.outcome is not None:
            raise self.outcome
        return Verified(before, self.revision)

    async def tick(self, revision: int) -> None:
        await asyncio.sleep(0)
        self._observe(revision)
        assert self.on_revision is not None
        self.on_revision()
        for _ in range(20):
            await asyncio.sleep(0)


def test_what_cannot_be_looked_up_ends_no_call_and_is_looked_up_again() -> None:
    asyncio.run(_lose_and_regain_the_database())


async def _lose_and_regain_the_database() -> None:
    authority, deadlines = Authority(), Deadlines()
    OpenStreams(authority, deadlines)
    running = [asyncio.create_task(_call(deadlines, header)) for header in (b"Bearer a", b"Bearer b", b"Bearer b")]
    await authority.tick(1)
    assert authority.asked == 2  # each credential once
    await authority.tick(1)
    assert authority.asked == 2  # and nothing while nothing changes
    authority.outcome = Unavailable("the database is not there")
    for _ in range(3):
        await authority.tick(2)
    assert authority.asked == 5
    assert not any(task.done() for task in running)
    authority.outcome = AuthenticationFailed("it has been revoked")
    await authority.tick(2)
    for task in running:
        with pytest.raises(AuthenticationFailed, match="it has been revoked") as caught:
            await task
        assert caught.value.code == "rights_revoked"


async def _call(deadlines: Deadlines, header: bytes) -> None:
    call = ModelCall(Operation.CHAT, {}, "m")
    headers = [(b"authorization", header)]
    scope = {FIELDS: dict(headers), "headers": headers, "state": {"principal": ANN}}
    client = SimpleNamespace(disconnected=False, on_disconnect=None, task=asyncio.current_task(), write=None)
    with Watch(call, deadlines, client, scope):
        await asyncio.Event().wait()
