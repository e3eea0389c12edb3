"""What a call has used where its upstream has not said it, and which model answered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sage.errors import DeadlineExceeded
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.attempts import attempt_began
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.dispatch.upstream_answer import UpstreamAnswer, UpstreamStream
from sage.middleware.providers.base import ModelCall, Operation, Usage
from sage.middleware.providers.call_steps import CallStep, StepKind, fault_of
from sage.middleware.usage.captured_call import CapturedCall, prompt_text
from sage.middleware.usage.estimates import answer_tokens, estimate_prompt, estimate_stream
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.settled_calls import SettledCall

if TYPE_CHECKING:  # brings SQLAlchemy, which fronts do not load
    from sage.middleware.usage.captures import Captures

_ENDS = frozenset({StepKind.ATTEMPT, StepKind.REFUSED})
_WITHOUT_USAGE = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})


def forget(call: SettledCall) -> None:
    """For a gateway without a ledger."""


def note_end(call: ModelCall, error: BaseException, deployment: Deployment | None = None) -> None:
    """Notes what has ended ``call`` before its regular end, unless its last attempt has ended with just that.

    ``deployment`` had begun to answer; without one none could be asked.
    """
    status, code = fault_of(error)
    last = call.steps[-1] if call.steps else None
    if last is not None and last.kind in _ENDS and (last.status, last.code) == (status, code):
        return
    kind, name = (StepKind.REFUSED, "") if deployment is None else (StepKind.ATTEMPT, deployment.name)
    call.note(CallStep(kind, attempt_began(call), time.monotonic(), name, status, code))


def estimate(
    call: ModelCall, answer: UpstreamAnswer | None, failure: BaseException | None, prompt_tokens: int
) -> tuple[int, int] | None:
    """The tokens of prompt and answer as we count them. ``None`` means that no upstream has worked on the call, as far
    as we know: none was asked, or it has refused or failed.

    ``failure`` is why there is no answer. ``prompt_tokens`` are those of a stream; its body is forgotten.
    """
    if not call.attempts or call.operation in _WITHOUT_USAGE:
        return None
    if answer is None:
        return (prompt_tokens or estimate_prompt(call.body), 0) if _was_cut(failure) else None
    if isinstance(answer, UpstreamStream):
        return prompt_tokens, estimate_stream(answer.body, answer.passed_bytes, answer.last_events)
    return estimate_prompt(call.body), answer_tokens(answer.body)


def captured(captures: Captures, principal: Principal, call: ModelCall) -> CapturedCall | None:
    """What gathers the texts of ``call``; ``None`` means that its team does not want them kept."""
    settings = captures.settings.get(principal.tenant)
    if settings is None:
        return None
    prompt = prompt_text(call.body)
    return CapturedCall(settings, principal.tenant, principal.user, call.model, call.request_id, prompt, call.stream)


def settled_cost(
    prices: PriceList, deployment: Deployment, usage: Usage | None, estimated: tuple[int, int] | None, ms: float
) -> int | None:
    """What a call that an upstream has answered costs, in nano-dollars; ``None`` means that nobody knows."""
    _, price = prices.find(deployment)
    if price is None:
        return None
    now = time.time()
    if usage is None:
        prompt, answer = estimated or (0, 0)
        return price.of_call(prompt, 0, answer, 0, ms, None, now)
    cached, reasoning, units = usage.details()
    return price.of_call(usage.prompt_tokens, cached, usage.completion_tokens, reasoning, ms, units, now)


def _was_cut(failure: BaseException | None) -> bool:
    """Whether a call ended while an upstream may have worked on it."""
    if isinstance(failure, DeadlineExceeded):
        return failure.code != "connect_timeout"
    return isinstance(failure, asyncio.CancelledError)
