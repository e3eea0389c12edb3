"""The names that people have given to keys, for answers that have their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.principal import Principal
from sage.middleware.routers.http.deps import Caller


class KeyNames:
    """Names of the keys that a caller may see, revoked ones too."""

    def __init__(self, accounts: Accounts | None, caller: Principal) -> None:
        self._accounts = accounts
        self._caller = caller

    async def of(self, ids: Iterable[str]) -> dict[str, str]:
        """By id; a key without a name, or one that the caller may not see, is left out."""
        wanted = {each for each in ids if each}
        if self._accounts is None or not wanted:
            return {}
        return await asyncio.to_thread(self._accounts.keys.names, wanted, self._caller)


async def _key_names(request: Request, caller: Caller) -> KeyNames:
    return KeyNames(request.app.state.accounts, caller)


TheKeyNames = Annotated[KeyNames, Depends(_key_names)]
