"""What the endpoints of framework routes are given: the caller, the gateway, and its collections."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.submission import Submission
from sage.middleware.routers.http.asgi import caller


async def _principal(request: Request) -> Principal:
    return caller(request.scope)


async def _gateway(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


Caller = Annotated[Principal, Depends(_principal)]
TheGateway = Annotated[Gateway, Depends(_gateway)]


async def collections(gateway: TheGateway) -> CollectionGateway:
    """The collections of the gateway."""
    return gateway.collections


TheCollections = Annotated[CollectionGateway, Depends(collections)]


async def _queue(request: Request) -> Queue:
    queue = request.app.state.queue
    assert isinstance(queue, Queue)
    return queue


TheQueue = Annotated[Queue, Depends(_queue)]


async def _submission(gateway: TheGateway, queue: TheQueue) -> Submission:
    return Submission(gateway, queue)


TheSubmission = Annotated[Submission, Depends(_submission)]
