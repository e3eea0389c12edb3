"""Models in Ollama's wire format: its clients need only the gateway's address, and see all models of the gateway.

``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/version`` describe, ``/api/pull`` fetches what the configuration
allows. Requests that would make, change or remove models are refused.

Source: Ollama's API reference (docs/api.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import PullProgress
from sage.middleware.routers.http.asgi import Receive, Send, error_headers, note
from sage.middleware.routers.http.asgi import Scope as HttpScope
from sage.middleware.routers.http.deps import AuditNote, Caller, TheGateway
from sage.middleware.routers.http.faults import body_fault
from sage.middleware.routers.http.guard import GuardedRoute, guarded_router, requires
from sage.middleware.routers.http.open_answers import ERROR_PIECE, STILL_ALLOWED, LongAnswer
from sage.middleware.routers.http.openapi_bodies import NDJSON
from sage.middleware.routers.http.progress import then
from sage.middleware.routers.ollama.inference import OllamaError, error_body, error_line, registered_name

VERSION = "0.12.11"
"""The version of Ollama whose wire format this is: clients ask for it to know what they may send."""


class OllamaRoute(GuardedRoute):
    """A framework route whose errors are sent in Ollama's shape."""

    error_model = OllamaError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as exc:
                fault = exc.errors()[0]
                field = ".".join(str(part) for part in fault["loc"][1:]) or "body"
                error: SageError = InvalidRequest(f"'{field}': {fault['msg']}", param=field)
            except HTTPException as exc:
                error = body_fault(exc)
            except SageError as exc:
                error = exc
            note(request.scope, error=error.code)
            return _error_response(error)

        return answer


def _error_response(error: SageError) -> Response:
    body = error_body(error)
    response = Response(body, status_code=error.status)
    response.raw_headers = error_headers(error, len(body))
    return response


router = guarded_router("Ollama", route_class=OllamaRoute)


class ModelName(BaseModel):
    """Names a model."""

    model: str = Field(min_length=1, examples=["gemma-3-270m"])


class PullRequest(ModelName):
    """Names a model to fetch."""

    stream: bool = True
    insecure: bool = False


@router.get("/api/tags", name="ollama_tags")
@requires(Scope.MODELS_READ)
async def list_models(principal: Caller, gateway: TheGateway) -> dict[str, Any]:
    """The registered models that this credential reaches, in Ollama's list."""
    models = [model for model in gateway.registry.models() if principal.allows_model(model.name)]
    return {"models": [{**_card(model), "modified_at": "1970-01-01T00:00:00Z"} for model in models]}


@router.get("/api/ps", name="ollama_ps")
@requires(Scope.MODELS_READ)
async def list_loaded(principal: Caller, gateway: TheGateway) -> dict[str, Any]:
    """The models that are in memory now."""
    models = [model for model in gateway.registry.models() if principal.allows_model(model.name)]
    await gateway.registry.refresh(models)
    return {"models": [{**_card(model), "size_vram": 0} for model in models if _in_memory(model)]}


@router.post("/api/show", name="ollama_show")
@requires(Scope.MODELS_READ)
async def show_model(body: ModelName, principal: Caller, gateway: TheGateway) -> dict[str, Any]:
    """One model, as its own server describes it, or else as the gateway does."""
    name = registered_name(gateway, body.model)
    if not principal.allows_model(name):
        raise NotFound(f"model '{name}' is not one that this credential reaches", code="model_not_found")
    model = await gateway.registry.resolve(name)
    shown: dict[str, Any] = {"details": _details(model), "model_info": {}, "capabilities": ["completion"]}
    hosted = [d for d in model.deployments if d.provider.kind == "ollama" and d.provider.host is not None]
    if hosted and hosted[0].provider.host is not None:
        described = dict(await hosted[0].provider.host.show(hosted[0].model))
        # The file contains paths of the server, and an administrator's instructions to the model.
        shown |= {key: value for key, value in described.items() if key not in ("modelfile", "system", "messages")}
    return shown


@router.get("/api/version", name="ollama_version")
@requires(Scope.MODELS_READ)
async def version(request: Request) -> dict[str, str]:
    """The version of Ollama's wire format, and the gateway's own version."""
    return {"version": VERSION, "gateway": f"{request.app.title} {request.app.version}"}


@router.post("/api/pull", name="ollama_pull", response_class=Response)
@requires(Scope.MODELS_WRITE)
async def pull_model(
    body: PullRequest, request: Request, principal: Caller, gateway: TheGateway, note_audit: AuditNote
) -> Response:
    """Fetches a model to its Ollama server, if the configuration allows it. A client that disconnects ends the pull."""
    if body.insecure:
        raise InvalidRequest("the gateway does not support 'insecure'; leave it out", param="insecure")
    name = _pullable(gateway, principal, body.model)
    steps = then(gateway.registry.pull(name), partial(note_audit, "model.pull", f"model:{name}", tenant=""))
    request.scope["state"] |= {STILL_ALLOWED: lambda rights: rights.require_model(name), ERROR_PIECE: error_line}
    if not body.stream:
        return _WholePull(steps)
    first = await anext(steps)  # a refusal is raised here, and gets its own status
    return StreamingResponse(_progress(first, steps), media_type=NDJSON)


class _WholePull(LongAnswer):
    """The answer to a pull whose progress nobody wants."""

    def __init__(self, steps: AsyncIterator[PullProgress]) -> None:
        super().__init__()
        self._steps = steps

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        response: Response = JSONResponse({"status": "success"})
        try:
            async for _ in self._steps:
                pass
        except SageError as error:
            note(scope, error=error.code)
            response = _error_response(error)
        await response(scope, receive, send)


def _pullable(gateway: Gateway, principal: Principal, name: str) -> str:
    """The name with the server to fetch the model to. A name without a server means the only Ollama server."""
    name = registered_name(gateway, name)
    providers = gateway.registry.providers
    if gateway.registry.get(name) is None and name.partition("/")[0] not in providers:
        hosts = [provider.name for provider in providers.values() if provider.kind == "ollama"]
        if len(hosts) != 1:
            names = ", ".join(f"{host}/{name}" for host in hosts) or "none is configured"
            raise InvalidRequest(f"'{name}' must name the Ollama server to fetch it to: {names}", param="model")
        name = f"{hosts[0]}/{name}"
    principal.require_model(name)
    return name


async def _progress(first: PullProgress, steps: AsyncIterator[PullProgress]) -> AsyncIterator[bytes]:
    yield _step(first)
    try:
        async for step in steps:
            yield _step(step)
    except SageError as error:
        yield error_line(error)


def _step(step: PullProgress) -> bytes:
    counts = {"completed": step.completed, "total": step.total}
    present = {name: count for name, count in counts.items() if count is not None}
    return orjson.dumps({"status": step.status, **present}) + b"\n"


@requires(Scope.MODELS_WRITE)
async def refuse_change(principal: Caller) -> None:
    """Refused: models are made, copied, published and removed at their own servers, or by ``/models``."""
    raise InvalidRequest(
        "the gateway makes, copies, publishes and removes no models for Ollama's clients; see POST and DELETE /models",
        code="unsupported_operation",
    )


for _method, _path, _name in (
    ("POST", "/api/create", "ollama_create"),
    ("POST", "/api/copy", "ollama_copy"),
    ("POST", "/api/push", "ollama_push"),
    ("DELETE", "/api/delete", "ollama_delete"),
):
    router.add_api_route(_path, refuse_change, methods=[_method], name=_name)


@router.post("/api/blobs/{digest}", name="ollama_blob")
@requires(Scope.MODELS_WRITE)
async def refuse_blob(digest: str, principal: Caller) -> None:
    """Refused, as what would be made of it."""
    await refuse_change(principal)


def _card(model: PublicModel) -> dict[str, Any]:
    return {"name": model.name, "model": model.name, "size": 0, "digest": "", "details": _details(model)}


def _details(model: PublicModel) -> dict[str, Any]:
    kinds = sorted({deployment.provider.kind for deployment in model.deployments})
    return {
        "parent_model": "",
        "format": "",
        "family": kinds[0] if kinds else "",
        "families": kinds,
        "parameter_size": "",
        "quantization_level": "",
    }


def _in_memory(model: PublicModel) -> bool:
    """Whether one of its deployments is loaded; those that are never loaded or unloaded do not count."""
    loadable = [d for d in model.deployments if d.managed is not None or d.provider.host is not None]
    return any(deployment.state in ("ready", "draining") for deployment in loadable)
