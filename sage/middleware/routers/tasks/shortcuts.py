"""The routes that every job takes, without the framework, which costs more than what they do.

The framework's own routes describe them; here the same functions are called in plain ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.rights import TASK_KINDS
from sage.middleware.gateway.jobs.submission import Submission
from sage.middleware.routers.http.asgi import ASGIApp, Receive, Scope, Send, caller, read_json
from sage.middleware.routers.http.guard import Guard
from sage.middleware.routers.tasks.tasks import submit_job
from sage.middleware.routers.tasks.worker import ClaimBody, FinishBody, claim_job, finish_run

Handle = Callable[[Request], Awaitable[Response]]


class _Shortcut:
    """An ASGI endpoint that answers as ``handle`` says."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive))
        await response(scope, receive, send)


def job_shortcuts(
    gateway: Gateway, queue: Queue, authenticator: Authenticator | None
) -> dict[tuple[str, str], ASGIApp]:
    """Endpoints by method and path."""

    async def claim(request: Request) -> Response:
        return await claim_job(parse(ClaimBody, await read_json(request.receive, request.scope)), request, queue)

    async def finish(request: Request) -> Response:
        return await finish_run(parse(FinishBody, await read_json(request.receive, request.scope)), queue)

    async def submit(kind: str, request: Request) -> Response:
        return await submit_job(kind, request, caller(request.scope), queue, submission)

    submission = Submission(gateway, queue)
    endpoints: dict[tuple[str, str], ASGIApp] = {
        ("POST", "/worker/claim"): Guard(_Shortcut(claim), Permission.WORKER, authenticator),
        ("POST", "/worker/finish"): Guard(_Shortcut(finish), Permission.WORKER, authenticator),
    }
    for kind in TASK_KINDS:
        endpoints["POST", f"/tasks/{kind}"] = Guard(_Shortcut(partial(submit, kind)), Permission.TASKS, authenticator)
    return endpoints
