"""What a call may take of the budgets that it meets: reserved before it is dispatched."""

from __future__ import annotations

import time
from collections.abc import Awaitable

from sage.errors import PermissionDenied, RateLimited
from sage.middleware.auth.principal import Principal
from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.body_walk import HARMLESS
from sage.middleware.providers.base import ModelCall, Operation, count_prompts
from sage.middleware.usage.estimates import upper_bound_prompt
from sage.middleware.usage.price_list import PriceList

_ANSWERED_IN_TOKENS = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_MULTIPLIES = frozenset({"n", "best_of", "prompt"})
_EACH_MESSAGE = 16
"""Tokens that a chat template may put around a message, and its role."""
_FREE = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})


class CallBudgets:
    """Reserves for calls under budgets. ``most_output`` is ``llm.limits.max_tokens``."""

    def __init__(self, budgets: Budgets, prices: PriceList, most_output: int) -> None:
        self._budgets = budgets
        self._prices = prices
        self._assumed_output = min(budgets.settings.assumed_output, most_output)
        self._most_output = most_output
        self._refuses_unpriced = budgets.settings.unpriced == "refuse"

    def reserve(
        self, principal: Principal, call: ModelCall, models: list[PublicModel]
    ) -> Reservation | Awaitable[Reservation] | None:
        """Reserves what ``call`` may take at most, whichever of ``models`` answers; ``None`` where no budget applies.

        Takes no time where this process holds enough. Else what it returns is awaited, which raises
        :class:`RateLimited` (``budget_exceeded``) when a budget has not enough, and :class:`PermissionDenied`
        (``unpriced_model``) for a model without a known price under a hard budget in dollars. A fallback that
        may not be charged is taken out of ``models``.
        """
        names = (models[0].name,) if len(models) == 1 else tuple([model.name for model in models])
        accounts = self._budgets.accounts(principal, names)
        if not accounts or call.operation in _FREE:
            return None
        tokens, answer = self._tokens(call)
        money = 0
        for account in accounts:
            if not account.counts_tokens:
                cost = self._cost(models, tokens, answer)
                if cost is None:
                    return self._draw(call, accounts, models, tokens, answer)
                money = cost
                break
        taken = self._budgets.take(accounts, money, tokens + answer)
        return self._draw(call, accounts, models, tokens, answer) if taken is None else taken

    def _tokens(self, call: ModelCall) -> tuple[int, int]:
        """The most tokens of the prompt, and of all answers together."""
        body = call.body
        answer = 0
        if call.operation in _ANSWERED_IN_TOKENS:
            answer = call.answer_bound or call.token_bound or self._assumed_output
            if answer > self._most_output:
                answer = self._most_output
            if not _MULTIPLIES.isdisjoint(body):
                best = body.get("best_of")
                answer *= max(call.answers, best * count_prompts(body)) if isinstance(best, int) else call.answers
        size = call.text_size
        if size is None or not HARMLESS.issuperset(body):
            return upper_bound_prompt(body), answer
        return size + _EACH_MESSAGE * (len(body["messages"]) + 1), answer  # a byte of text is a token at most

    def _cost(self, models: list[PublicModel], tokens: int, answer: int) -> int | None:
        """The most that it may cost; ``None`` where a price is not known."""
        find, now, most = self._prices.find, time.time(), 0
        for model in models:
            for deployment in model.deployments:
                _, price = find(deployment)
                if price is None:
                    return None
                cost = price.most(tokens, answer, deployment.timeouts.total, now)
                if cost > most:
                    most = cost
        return most

    async def _draw(
        self,
        call: ModelCall,
        accounts: tuple[BudgetAccount, ...],
        models: list[PublicModel],
        tokens: int,
        answer: int,
    ) -> Reservation:
        """As :meth:`reserve`, with prices that have to be looked up and with what the database grants."""
        money = 0
        if any(not account.counts_tokens for account in accounts):
            await self._check_prices(accounts, models)
            money = max(self._cost([model], tokens, answer) or 0 for model in models)
        own: list[BudgetAccount] = []
        fallbacks: list[BudgetAccount] = []
        for account in accounts:
            (own if account.model in (None, models[0].name) else fallbacks).append(account)
        reservation = await self._budgets.reserve(tuple(own), money, tokens + answer)
        try:
            for account in fallbacks:
                await self._reserve_fallback(reservation, account, models)
        except BaseException:
            reservation.cancel()
            raise
        return reservation

    async def _reserve_fallback(
        self, reservation: Reservation, account: BudgetAccount, models: list[PublicModel]
    ) -> None:
        """Reserves of the budget that a fallback has for itself, or goes without that fallback."""
        try:
            reservation.add(await self._budgets.reserve((account,), reservation.money, reservation.tokens))
        except RateLimited:
            models[:] = [model for model in models if model.name != account.model]

    async def _check_prices(self, accounts: tuple[BudgetAccount, ...], models: list[PublicModel]) -> None:
        """Looks prices up. Where all have to be known, takes fallbacks away whose price nobody knows, and raises
        :class:`PermissionDenied` for the model itself."""
        deployments = [deployment for model in models for deployment in model.deployments]
        if not self._prices.is_resolved(deployments):
            await self._prices.resolve(deployments)
        strict = next((each for each in accounts if each.budget.hard and not each.counts_tokens), None)
        if strict is None or not self._refuses_unpriced:
            return
        if self._cost(models[:1], 1, 1) is None:
            budget = strict.budget
            raise PermissionDenied(
                f"nobody knows what the model '{models[0].name}' costs, and the budget of the {budget.kind} "
                f"'{budget.name}' is in dollars; an administrator gives it a price in llm.prices, or sets "
                "budgets.unpriced: allow",
                param="model",
                code="unpriced_model",
            )
        models[1:] = [model for model in models[1:] if self._cost([model], 1, 1) is not None]
