"""Rate limits of one call: whose they are, what is taken before it, and what is given back after it."""

from __future__ import annotations

from collections.abc import Sequence

from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.limits.local_limiter import Admitted, Limiter
from sage.middleware.limits.over_limit import Headers, OverLimit
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.limits import SubjectLimits
from sage.middleware.usage.estimates import estimate_prompt

_GENERATES = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_UNBOUNDED_ANSWER = 512
"""Tokens that are taken for an answer without a bound; what it has more counts at its end."""


class RatedCall:
    """What one call has taken from the limits of its caller and of its models. It is settled or cancelled once."""

    __slots__ = ("_fallbacks", "_own")

    def __init__(self, own: Admitted | None, fallbacks: list[tuple[PublicModel, Admitted]]) -> None:
        self._own = own
        self._fallbacks = fallbacks

    @property
    def headers(self) -> Headers:
        """What the caller is told is left of its limits."""
        return self._own.headers if self._own is not None else []

    def settle(self, asked: Deployment | None, tokens: int) -> None:
        """The call has ended and has used so many tokens, at ``asked``."""
        if self._own is not None:
            self._own.settle(tokens)
        for model, admitted in self._fallbacks:
            if asked in model.deployments:
                admitted.settle(tokens)
            else:
                admitted.cancel()

    def cancel(self) -> None:
        """The call was not made: nothing of it counts."""
        for admitted in (self._own, *(admitted for _, admitted in self._fallbacks)):
            if admitted is not None:
                admitted.cancel()


class RateLimits:
    """Asks a limiter for calls, and counts what it refuses."""

    def __init__(self, limiter: Limiter, metrics: Metrics) -> None:
        self.limiter = limiter
        self._metrics = metrics

    async def admit(self, principal: Principal, call: ModelCall, models: list[PublicModel]) -> RatedCall | None:
        """Takes the call from the limits of the caller and of the model that it asks for.

        A fallback with limits of its own is taken from them too; one that is over them leaves ``models``. ``None``
        means that nothing bounds it. Raises :class:`OverLimit` with nothing taken.
        """
        own, fallbacks = None, []
        limits = principal.limits + models[0].limits
        try:
            if limits:
                own = await self._take(limits, call, models[0])
            for model in models[1:]:
                if not model.limits:
                    continue
                try:
                    fallbacks.append((model, await self._take(model.limits, call, model)))
                except OverLimit:
                    models.remove(model)
        except BaseException:
            RatedCall(own, fallbacks).cancel()
            raise
        return RatedCall(own, fallbacks) if limits or fallbacks else None

    async def _take(self, limits: Sequence[SubjectLimits], call: ModelCall, model: PublicModel) -> Admitted:
        prompt, answer = 0, 0
        if any(each.limits.tpm is not None for each in limits):
            prompt, answer = estimate_prompt(call.body), answer_tokens(call)
        try:
            admitted = self.limiter.admit(limits, prompt, answer)
            return admitted if isinstance(admitted, Admitted) else await admitted
        except OverLimit as refused:
            self._metrics.limited(model.label, refused.subject, refused.kind)
            raise


def answer_tokens(call: ModelCall) -> int:
    """The tokens that the answers to ``call`` may have: by its own bound, else a guess."""
    if call.operation not in _GENERATES:
        return 0
    body = call.body
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    each = bound if isinstance(bound, int) and bound > 0 else _UNBOUNDED_ANSWER
    return each * call.answers
