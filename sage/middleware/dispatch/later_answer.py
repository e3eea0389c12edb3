"""Answers that a vendor has only queued (202): they are asked for until they are there, or the call's time is over."""

from __future__ import annotations

import asyncio

from sage.middleware.dispatch.upstream_answer import refusal_of
from sage.middleware.providers.base import Answering, Provider, UpstreamRequest, UpstreamResponse

_PAUSE = 1.0
"""Seconds before each time that it is asked for."""


async def later_answer(
    provider: Provider, request: UpstreamRequest, response: UpstreamResponse, transport: Answering
) -> UpstreamResponse:
    """The answer behind ``response``, whose status is not 200; itself, where the vendor has no such thing.

    Raises the error for a refusal.
    """
    try:
        while response.status == 202 and (following := provider.follow_up(request, response)) is not None:
            response.close()
            await asyncio.sleep(_PAUSE)
            response = await transport.send(following)
        if response.status >= 300:
            raise await refusal_of(provider, response)
    except BaseException:
        response.close()
        raise
    return response
