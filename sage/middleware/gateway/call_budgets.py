"""What a call may take of the budgets that it meets: reserved before it is dispatched."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

from sage.errors import PermissionDenied, RateLimited
from sage.middleware.auth.principal import Principal
from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.gateway.body_walk import HARMLESS
from sage.middleware.gateway.media_bounds import media_bound
from sage.middleware.providers.base import ModelCall, Operation, count_prompts
from sage.middleware.usage.estimates import size_of_texts, upper_bound_prompt
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.prices import MostRates

_CHAT, _COMPLETIONS = Operation.CHAT, Operation.COMPLETIONS  # a look-up in the enum costs a call on Python 3.11
_MULTIPLIES = frozenset({"n", "best_of", "prompt"})
_EACH_MESSAGE = 16
"""Tokens that a chat template may put around a message, and its role."""
_WITHOUT_ANSWER = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})
_MOST_KNOWN = 4096


@dataclass(slots=True)
class _CallTerms:
    """What calls of a caller for a model have in common."""

    accounts: tuple[BudgetAccount, ...]
    counts_money: bool
    rates: MostRates | None
    """``None`` where costs have to be looked up for each call."""
    has_soft: bool
    deployments: list[Deployment]
    """Those of the model when this was looked up."""
    of: tuple[Principal, PublicModel]
    """Whose identities it is known by."""


class CallBudgets:
    """Reserves for calls under budgets. ``most_output`` and ``most_audio`` are ``max_tokens``, ``max_audio_bytes`` of
    ``llm.limits``."""

    def __init__(self, budgets: Budgets, prices: PriceList, most_output: int, most_audio: int = 25 * 2**20) -> None:
        self._budgets = budgets
        self._take = budgets.take
        self._prices = prices
        self._known: dict[tuple[int, int], _CallTerms] = {}
        """By the identities of a caller and of the model that it asks for."""
        budgets.book.on_edition.append(self._known.clear)
        self._assumed_output = min(budgets.settings.assumed_output, most_output)
        self._most_output = most_output
        self._most_audio = most_audio
        self._refuses_unpriced = budgets.settings.unpriced == "refuse"

    def reserve(
        self, principal: Principal, call: ModelCall, models: list[PublicModel]
    ) -> Reservation | Awaitable[Reservation] | None:
        """Reserves what ``call`` may take at most, whichever of ``models`` answers; ``None`` where no budget applies.

        Takes no time where this process holds enough; else it is awaited, and raises :class:`RateLimited`
        (``budget_exceeded``), or :class:`PermissionDenied` (``unpriced_model``) for a model without a known price under
        a hard budget in dollars. A fallback that may not be charged is taken out of ``models``.
        """
        model = models[0]
        known = self._known.get((id(principal), id(model)))
        if known is None or len(models) > 1 or known.deployments != model.deployments:
            known = self._look_up(principal, models)
        accounts = known.accounts
        if not accounts:
            return None
        if call.is_plain:
            answer = call.answer_bound or call.token_bound or self._assumed_output
            if answer > self._most_output:
                answer = self._most_output
            # a byte of text is a token at most
            size = call.text_size
            if size is None:
                size = call.text_size = size_of_texts(call.body["messages"]) or 0
            tokens = size + _EACH_MESSAGE * (len(call.body["messages"]) + 1)
        elif call.operation in _WITHOUT_ANSWER:
            return None
        elif call.relayed:
            return self._reserve_media(call, known, models)
        else:
            tokens, answer = self._tokens(call)
        money = 0
        if known.counts_money:
            rates = known.rates or self._rates(known, models)
            most = rates.most(tokens, answer) if rates is not None else self._cost(models, tokens, answer)
            if most is None:
                return self._draw(call, accounts, models, tokens, answer)
            money = most
        taken = self._take(accounts, money, tokens + answer, known.has_soft)
        return taken or self._draw(call, accounts, models, tokens, answer)

    def _reserve_media(
        self, call: ModelCall, known: _CallTerms, models: list[PublicModel]
    ) -> Reservation | Awaitable[Reservation]:
        """As :meth:`reserve`, for a call whose units are more than tokens."""
        tokens, answer, units = media_bound(call, self._most_audio)
        money = 0
        if known.counts_money:
            most = self._cost(models, tokens, answer, units)
            if most is None:
                return self._draw(call, known.accounts, models, tokens, answer, units)
            money = most
        taken = self._take(known.accounts, money, tokens + answer)
        return taken or self._draw(call, known.accounts, models, tokens, answer, units)

    def _look_up(self, principal: Principal, models: list[PublicModel]) -> _CallTerms:
        accounts = self._budgets.accounts(principal, tuple([model.name for model in models]))
        counts_money = any(not account.counts_tokens for account in accounts)
        deployments = list(models[0].deployments)
        has_soft = any(account.is_soft for account in accounts)
        known = _CallTerms(accounts, counts_money, None, has_soft, deployments, (principal, models[0]))
        if len(models) == 1:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[id(principal), id(models[0])] = known
        return known

    def _rates(self, known: _CallTerms, models: list[PublicModel]) -> MostRates | None:
        """What a call of the only deployment costs at most, where its price is known and always the same."""
        if len(models) > 1 or len(known.deployments) != 1:
            return None
        deployment = known.deployments[0]
        _, price = self._prices.find(deployment)
        if price is not None:
            known.rates = price.most_rates(deployment.timeouts.total)
        return known.rates

    def _tokens(self, call: ModelCall) -> tuple[int, int]:
        """The most tokens of the prompt, and of all answers together."""
        body, operation = call.body, call.operation
        answer = 0
        if operation is _CHAT or operation is _COMPLETIONS:
            answer = call.answer_bound or call.token_bound or self._assumed_output
            if answer > self._most_output:
                answer = self._most_output
            if not _MULTIPLIES.isdisjoint(body):
                best = body.get("best_of")
                answer *= max(call.answers, best * count_prompts(body)) if isinstance(best, int) else call.answers
        size = call.text_size
        if size is None or not HARMLESS.issuperset(body):
            return upper_bound_prompt(body), answer
        return size + _EACH_MESSAGE * (len(body["messages"]) + 1), answer

    def _cost(
        self, models: list[PublicModel], tokens: int, answer: int, units: Mapping[str, int] | None = None
    ) -> int | None:
        """The most that it may cost; ``None`` where a price is not known."""
        find, now, most = self._prices.find, time.time(), 0
        for model in models:
            for deployment in model.deployments:
                _, price = find(deployment)
                if price is None:
                    return None
                cost = price.most(tokens, answer, deployment.timeouts.total, now)
                if units:
                    cost += price.cost(units, now)
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
        units: Mapping[str, int] | None = None,
    ) -> Reservation:
        """As :meth:`reserve`, with prices that have to be looked up and with what the database grants."""
        money = 0
        if any(not account.counts_tokens for account in accounts):
            await self._check_prices(accounts, models)
            money = max(self._cost([model], tokens, answer, units) or 0 for model in models)
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
