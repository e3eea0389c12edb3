"""Rate limits of one call: whose they are, what is taken before it, and what is given back after it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.limits.local_limiter import Admitted, Limiter
from sage.middleware.limits.over_limit import Headers, OverLimit
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.limits import SubjectLimits
from sage.middleware.usage.estimates import estimate_prompt

_CHAT, _COMPLETIONS = Operation.CHAT, Operation.COMPLETIONS  # a look-up in the enum costs a call on Python 3.11
_MULTIPLIES = frozenset({"n", "prompt"})
"""Fields that may ask for several answers."""
_MOST_KNOWN = 4096
_UNBOUNDED_ANSWER = 512
"""Tokens that are taken for an answer without a bound of its own; what it has more counts at its end."""


class RatedCall:
    """What a call has taken from the limits of its caller and of its model, and of fallbacks that have limits of their
    own. It is settled or cancelled once, as an :class:`Admitted` is."""

    __slots__ = ("_call", "_fallbacks", "_own")

    def __init__(self, call: ModelCall, own: Admitted | None, fallbacks: list[tuple[PublicModel, Admitted]]) -> None:
        self._call = call
        self._own = own
        self._fallbacks = fallbacks

    @property
    def headers(self) -> Headers:
        """What the caller is told is left of its limits."""
        return self._own.headers if self._own is not None else []

    def settle(self, tokens: int) -> None:
        """The call has ended and has used so many tokens. Fallbacks that it did not use get theirs back."""
        if self._own is not None:
            self._own.settle(tokens)
        for model, admitted in self._fallbacks:
            if self._call.asked in model.deployments:
                admitted.settle(tokens)
            else:
                admitted.cancel()

    def cancel(self) -> None:
        """The call was not made: nothing of it counts."""
        for admitted in (self._own, *(admitted for _, admitted in self._fallbacks)):
            if admitted is not None:
                admitted.cancel()


@dataclass(slots=True)
class CallLimits:
    """The limits of a caller and of the model that it asks for."""

    subjects: tuple[SubjectLimits, ...]
    counts_tokens: bool
    parts: tuple[tuple[SubjectLimits, ...], tuple[SubjectLimits, ...]]
    """What they are made of, held so that no others get the same identities."""


class RateLimits:
    """Asks a limiter for calls, and counts what it refuses."""

    def __init__(self, limiter: Limiter, metrics: Metrics) -> None:
        self.limiter = limiter
        self._metrics = metrics
        self._known: dict[tuple[int, int], CallLimits] = {}
        """By the identities of both parts."""

    def admit(
        self, principal: Principal, call: ModelCall, models: list[PublicModel], prompt_tokens: int = 0
    ) -> Admitted | Awaitable[Admitted | RatedCall] | None:
        """Takes the call from the limits of the caller and of the model that it asks for.

        A fallback with limits of its own is taken from them too; one that is over them leaves ``models``. ``None``
        means that nothing bounds it. ``prompt_tokens`` are those of the prompt, where they were estimated before.
        Raises :class:`OverLimit`, also when it is waited for, with nothing taken.
        """
        own, model = principal.limits, models[0]
        limits = self._known.get((id(own), id(model.limits))) or self._join(own, model.limits)
        if len(models) > 1 and any(each.limits for each in models[1:]):
            return self._admit_all(limits, call, models, prompt_tokens)
        return self._take(limits, call, model, prompt_tokens) if limits.subjects else None

    def _join(self, callers: tuple[SubjectLimits, ...], models: tuple[SubjectLimits, ...]) -> CallLimits:
        """The limits of a caller and of a model together, which are the same object from now on."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        limits = callers + models
        counts_tokens = any(each.limits.tpm is not None for each in limits)
        joined = self._known[id(callers), id(models)] = CallLimits(limits, counts_tokens, (callers, models))
        return joined

    async def _admit_all(
        self, limits: CallLimits, call: ModelCall, models: list[PublicModel], prompt_tokens: int
    ) -> RatedCall:
        own, fallbacks = None, []
        try:
            if limits.subjects:
                own = await self._taken(limits, call, models[0], prompt_tokens)
            for model in models[1:]:
                if not model.limits:
                    continue
                try:
                    its_limits = self._join((), model.limits)
                    fallbacks.append((model, await self._taken(its_limits, call, model, prompt_tokens)))
                except OverLimit:
                    models.remove(model)
        except BaseException:
            RatedCall(call, own, fallbacks).cancel()
            raise
        return RatedCall(call, own, fallbacks)

    async def _taken(self, limits: CallLimits, call: ModelCall, model: PublicModel, prompt_tokens: int) -> Admitted:
        taken = self._take(limits, call, model, prompt_tokens)
        return taken if isinstance(taken, Admitted) else await taken

    def _take(
        self, limits: CallLimits, call: ModelCall, model: PublicModel, prompt: int
    ) -> Admitted | Awaitable[Admitted]:
        answer = 0
        if call.is_plain:
            prompt = prompt or estimate_prompt(call.body, call.text_size)
            answer = call.answer_bound or _UNBOUNDED_ANSWER
        elif limits.counts_tokens:
            if not prompt:
                prompt = estimate_prompt(call.body, call.text_size)
            operation = call.operation
            if operation is _CHAT or operation is _COMPLETIONS:
                answer = call.answer_bound or _UNBOUNDED_ANSWER
                if not _MULTIPLIES.isdisjoint(call.body):
                    answer *= call.answers
        try:
            taken = self.limiter.admit(limits.subjects, prompt, answer)
        except OverLimit as refused:
            self._metrics.limited(model.label, refused.subject, refused.kind)
            raise
        return taken if isinstance(taken, Admitted) else self._counted(taken, model)

    async def _counted(self, taking: Awaitable[Admitted], model: PublicModel) -> Admitted:
        try:
            return await taking
        except OverLimit as refused:
            self._metrics.limited(model.label, refused.subject, refused.kind)
            raise
