"""The usage ledger of a gateway, and what reads it, made of its settings."""

from __future__ import annotations

import asyncio
import contextlib

from sage.errors import SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.settings import Settings
from sage.middleware.usage.captures import Captures
from sage.middleware.usage.database import UsageDatabase
from sage.middleware.usage.ledger import Ledger
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.reader import UsageReader
from sage.middleware.usage.store import UsageStore
from sage.middleware.usage.vendor_prices import describe_all

_LOOKS_EVERY = 0.25


def make_ledger(settings: Settings, registry: Registry) -> Ledger:
    """The ledger of the calls of a gateway. It opens its database with the first call, and runs once it is started."""
    database = UsageDatabase(settings.data_dir, settings.database)

    def deployments() -> list[Deployment]:
        return [deployment for model in registry.models() for deployment in model.deployments]

    describe = describe_all if settings.usage.published_prices else None
    prices = PriceList(settings.llm.prices, deployments, describe)
    ledger = Ledger(lambda: UsageStore(database.open()), prices, settings.usage)
    ledger.reader = UsageReader(database.open)
    ledger.captures = Captures(database.open)
    ledger.on_stopped = database.close
    return ledger


async def follow_captures(accounts: Accounts, captures: Captures) -> None:
    """Has ``captures`` go by what teams say now, until it is cancelled."""
    seen: int | None = None
    while True:
        revision = accounts.database.revision
        if revision != seen:
            with contextlib.suppress(SageError):  # of a database that is away: what was true before goes on
                captures.settings = await asyncio.to_thread(accounts.teams.captures)
                seen = revision
        await asyncio.sleep(_LOOKS_EVERY)
