"""The budgets of a gateway, made of its settings."""

from __future__ import annotations

from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.database import open_budgets_database
from sage.middleware.gateway.call_budgets import CallBudgets
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.settings import Settings
from sage.private_files import make_private_dir


def connect_budgets(gateway: Gateway, budgets: Budgets, settings: Settings) -> None:
    """From now on the calls of ``gateway`` are under ``budgets``."""
    ledger = gateway.ledger
    assert ledger is not None
    call_budgets = CallBudgets(
        budgets, ledger.prices, settings.llm.limits.max_tokens, settings.llm.limits.max_audio_bytes
    )

    def changed() -> None:
        gateway.budgets = call_budgets if budgets.subjects else None

    ledger.on_settled = budgets.on_settled
    budgets.on_short(ledger.settled)
    budgets.on_change(changed)


async def end_budgets(gateway: Gateway, budgets: Budgets) -> None:
    """Settles the calls that have ended; ``gateway`` may go on without budgets."""
    gateway.budgets = None
    if gateway.ledger is not None:
        await gateway.ledger.settled()
        gateway.ledger.on_settled = None
    await budgets.end()


def open_budgets(settings: Settings, registry: Registry) -> Budgets | None:
    """The budgets of the gateway's installation. ``None`` means that there can be none: it has no accounts to give them
    to, and none in its configuration.

    Raises :class:`sage.errors.ConfigError` when their database cannot be used.
    """
    if not settings.auth.enabled and not settings.has_budgets:
        return None

    def of_models() -> dict[str, BudgetSettings]:
        return {model.name: model.spending for model in registry.models() if model.spending is not None}

    make_private_dir(settings.data_dir)
    database = open_budgets_database(settings.data_dir, settings.database)
    return Budgets(database, settings.budgets, settings.queue.webhooks, of_models)
