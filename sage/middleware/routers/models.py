"""``/models``: the models and their states, loading and unloading, and models that are registered at run time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest, NotFound, PermissionDenied
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.engines.machine_memory import machine_memory
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.hub.sources import is_source
from sage.middleware.providers.base import MAX_NAME, ModelCall, Operation
from sage.middleware.registry.runtime_models import registration
from sage.middleware.registry.runtime_models import revision as revision_of
from sage.middleware.routers.http.asgi import take_flag
from sage.middleware.routers.http.bodies import SMALL_BODY
from sage.middleware.routers.http.deps import AuditNote, Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.open_answers import STILL_ALLOWED
from sage.middleware.routers.http.openapi_bodies import EVENTS
from sage.middleware.routers.http.progress import ProgressStream, then
from sage.middleware.routers.model_watch import NO_BUFFERS, watch_list, watch_one
from sage.middleware.settings.settings import Model

router = guarded_router("Models")

# The operation that a request is for, by a field that no other operation has; without any of them it is a chat.
_OPERATION_FIELDS = {
    "input": Operation.EMBEDDINGS,
    "text_1": Operation.SCORE,
    "query": Operation.RERANK,
    "prompt": Operation.COMPLETIONS,
}
_EMPTY_CHAT = [{"role": "user", "content": "?"}]


class BreakerState(BaseModel):
    """Whether a deployment is skipped because it failed. ``closed``: it is not; ``open``: it is; ``half_open``: one
    request may probe it. ``opens_for``: seconds until then."""

    model_config = ConfigDict(extra="allow")

    state: str
    failures: int
    opens_for: float | None
    last_failure: str | None


class DeploymentState(BaseModel):
    """One model at one provider. ``loadable``: it can be loaded and unloaded here. ``cooling_for``: the seconds that it
    still cools down (``Retry-After``)."""

    model_config = ConfigDict(extra="allow")

    provider: str
    model: str
    kind: str
    weight: float
    priority: int
    state: str
    loadable: bool
    memory: int | None
    in_flight: int
    waiting: int
    max_concurrency: int | None
    breaker: BreakerState
    cooling_for: float
    keys: list[dict[str, Any]]


class LoadProgress(BaseModel):
    """How far a load is. ``since`` is in Unix seconds, ``memory`` the bytes that the engine takes so far, ``expected``
    those that it will take, both null if unknown."""

    since: float
    waits_for_room: bool
    memory: int | None
    expected: int | None


class ModelState(BaseModel):
    """A model. ``state`` is ``unloaded``, ``loading``, ``ready``, ``draining``, ``failed``, or ``unknown`` if its own
    server does not answer. Times are Unix seconds, ``memory`` is in bytes. ``source`` tells where its name comes from:
    ``config``, ``runtime``, ``provider``, ``program``, or ``file`` for one that was pulled or added. ``shadows``
    tells that another model of this name was registered at run time, and takes effect when this one is removed."""

    model_config = ConfigDict(extra="allow")

    name: str
    state: str
    provider: str | None
    deployments: list[DeploymentState]
    fallbacks: list[str]
    source: str
    shadows: bool
    pin: bool
    preload: bool
    memory: int | None
    loaded_at: float | None
    last_used: float | None
    in_flight: int
    error: dict[str, Any] | None
    load: LoadProgress | None = Field(None, description="Of a model that is shown alone, while it loads.")
    registration: dict[str, Any] | None = Field(
        None, description="What it was registered with, for callers with `models:write`; null for other models."
    )
    revision: str | None = Field(None, description="Another one after each change of the registration.")


class EngineMemory(BaseModel):
    """An engine that has memory, in bytes."""

    provider: str
    model: str
    memory: int
    state: str
    pin: bool
    in_flight: int


class MemoryUse(BaseModel):
    """What engines of this gateway take of ``llm.memory_budget`` (null: no bound), in bytes; of the engines those that
    the caller may use. ``machine`` is what this machine lets programs take, ``waiting`` the models that wait for room.
    """

    budget: int | None
    used: int
    waiting: int
    machine: int | None
    engines: list[EngineMemory]


class ProviderName(BaseModel):
    """A configured provider."""

    name: str
    kind: str


class ModelStates(BaseModel):
    """All models that the caller may use. ``providers`` are those of which models can be registered, for callers with
    the scope ``models:write``."""

    models: list[ModelState]
    memory: MemoryUse
    providers: list[ProviderName]


class PullOptions(BaseModel):
    """How a hub's model is called and started; each may be left out, ``task`` where the file tells it."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    context: int | None = Field(None, ge=64, le=2**20)
    task: Literal["generate", "embed", "rerank"] | None = None


_NEW_MODEL = {"deployments": [{"provider": "openai", "model": "gpt-4o-mini", "weight": 1}], "fallbacks": []}
Registration = Annotated[
    dict[str, Any],
    Body(description="A model's section of the configuration, without anything of its engine.", examples=[_NEW_MODEL]),
]
RegistrationFields = Annotated[
    dict[str, Any],
    Body(
        description="The fields of the registration that change; null gives one its default.",
        examples=[{"fallbacks": ["gpt-4o"], "keep_alive": None}],
    ),
]
Question = Annotated[
    dict[str, Any] | None,
    Body(description="A request as for `/v1/chat/completions`; left out, a chat.", examples=[{"stream": True}]),
]


_WATCHED: dict[int | str, dict[str, Any]] = {200: {"content": {EVENTS: {}}}}
Watch = Annotated[bool, Query(description="Whether states come as events, whenever they change.")]


@router.get("/models", name="models_list", response_model=ModelStates, responses=_WATCHED)
@requires(Scope.MODELS_READ)
async def list_models(request: Request, principal: Caller, gateway: TheGateway, watch: Watch = False) -> Any:
    """The registered models that this credential may use, with their states.

    With `watch=true` as server-sent events, for as long as the client listens: the first one is `whole`, a later one
    has the `models` that have changed and the names of those that were `removed`.
    """

    async def models() -> list[PublicModel]:
        found = [model for model in gateway.registry.models() if principal.allows_model(model.name)]
        await gateway.registry.refresh(found)
        return found

    machine = await asyncio.to_thread(machine_memory)
    rest = partial(_beside_models, gateway, principal, machine)
    if not watch:
        states = [ModelState.model_validate(model.describe()) for model in await models()]
        return ModelStates.model_validate({"models": states, **rest()})
    shown: set[str] = set()
    request.scope["state"][STILL_ALLOWED] = lambda rights: [rights.require_model(name) for name in shown]
    return StreamingResponse(watch_list(models, rest, shown, gateway.ending), media_type=EVENTS, headers=NO_BUFFERS)


def _beside_models(gateway: Gateway, principal: Principal, machine: int | None) -> dict[str, Any]:
    """What :class:`ModelStates` has beside the models."""
    memory = gateway.registry.describe_memory()
    memory["engines"] = [
        each for each in memory["engines"] if principal.allows_model(f"{each['provider']}/{each['model']}")
    ]
    providers = gateway.registry.providers.items() if _writes_models(principal) else ()
    return {
        "memory": {"machine": machine, **memory},
        "providers": [{"name": name, "kind": each.kind} for name, each in providers],
    }


@router.post(
    "/models/{name:path}/load", name="models_load", response_model=ModelState, responses={202: {"model": ModelState}}
)
@requires(Scope.MODELS_WRITE)
async def load_model(
    name: str, principal: Caller, gateway: TheGateway, note_audit: AuditNote, wait: bool = True
) -> JSONResponse:
    """Loads a model into memory; answers when it is ready, or at once with 202 under ``?wait=false``."""
    require_model_access(principal, name)
    model = await gateway.registry.load(name, wait=wait)
    await note_audit("model.load", f"model:{model.name}", tenant="")
    state = model.describe()
    return JSONResponse(state, status_code=200 if wait or state["state"] == "ready" else 202)


@router.post("/models/{name:path}/unload", name="models_unload")
@requires(Scope.MODELS_WRITE)
async def unload_model(name: str, principal: Caller, gateway: TheGateway, note_audit: AuditNote) -> ModelState:
    """Removes a model from memory; running requests have 30 s to end. The memory is free when this answers."""
    require_model_access(principal, name)
    model = await gateway.registry.unload(name)
    await note_audit("model.unload", f"model:{model.name}", tenant="")
    return ModelState.model_validate(model.describe())


@router.post("/models/{name:path}/explain", name="models_explain")
@requires(Scope.MODELS_READ)
@max_body(SMALL_BODY)
async def explain_model(name: str, principal: Caller, gateway: TheGateway, question: Question = None) -> dict[str, Any]:
    """Which deployments would answer a request now, in which order, and why; nothing is sent to them."""
    require_model_access(principal, name)
    return await gateway.explain(principal, _explained_call(name, dict(question or {})))


@router.post(
    "/models/{name:path}/pull",
    name="models_pull",
    response_class=Response,
    responses={200: {"content": {EVENTS: {}}}},
)
@requires(Scope.MODELS_WRITE)
@max_body(SMALL_BODY)
async def pull_model(
    name: str,
    request: Request,
    principal: Caller,
    gateway: TheGateway,
    note_audit: AuditNote,
    wanted: Annotated[PullOptions | None, Body()] = None,
) -> Response:
    """Fetches a model to its server (Ollama), or from a hub to this gateway (`hf:ORG/REPO`, `hf:ORG/REPO:FILE.gguf`).

    Its progress comes as events, of which the last one names the model that a hub's became; a client that disconnects
    ends it. What was fetched of a hub's model is kept, and the next pull goes on from there.
    """
    options = wanted or PullOptions()
    details = options.model_dump(exclude_none=True)
    pulled = partial(note_audit, "model.pull", f"model:{name}", details, tenant="")
    if not is_source(name):
        if options != PullOptions():
            raise InvalidRequest("a model that its own server fetches takes no options", param="name")
        require_model_access(principal, name)
        request.scope["state"][STILL_ALLOWED] = lambda rights: rights.require_model(name)
        return ProgressStream(then(gateway.registry.pull(name), pulled))
    engine = options.model_dump(include={"context", "task"}, exclude_none=True)
    needed: list[str] = []  # the names that it is to have here; the right to them is what may be lost

    def require(model: str) -> None:
        principal.require_model(model)
        needed.append(model)

    request.scope["state"][STILL_ALLOWED] = lambda rights: [rights.require_model(model) for model in needed]
    steps = gateway.registry.pulled.pull(name, require, name=options.name, options=engine)
    return ProgressStream(then(steps, pulled))


@router.get("/models/{name:path}", name="models_show", response_model=ModelState, responses=_WATCHED)
@requires(Scope.MODELS_READ)
async def show_model(name: str, request: Request, principal: Caller, gateway: TheGateway, watch: Watch = False) -> Any:
    """One model and its state; with `watch=true` as server-sent events, whenever it has changed."""
    require_model_access(principal, name)

    async def state() -> dict[str, Any]:
        model = await gateway.registry.resolve(name)
        await gateway.registry.refresh([model])
        load = await gateway.registry.load_progress(model)
        stored = gateway.registry.stored(model.name) if _writes_models(principal) else None
        written = _written(stored) if stored is not None else {}
        return {**model.describe(), "load": load, **written}

    first = await state()  # what does not exist has its own status
    if not watch:
        return ModelState.model_validate(first)
    request.scope["state"][STILL_ALLOWED] = lambda rights: rights.require_model(name)
    return StreamingResponse(watch_one(state, gateway.ending), media_type=EVENTS, headers=NO_BUFFERS)


@router.post(
    "/models/{name:path}", name="models_register", response_model=ModelState, responses={201: {"model": ModelState}}
)
@requires(Scope.MODELS_WRITE)
async def register_model(
    name: str, body: Registration, principal: Caller, gateway: TheGateway, note_audit: AuditNote
) -> JSONResponse:
    """Registers a model over deployments of configured providers, or replaces one that was registered so.

    A URL, a path, a command or an argument of an engine is refused, and so is a model that the credential may not use.
    Models of the configuration cannot be replaced.
    """
    _check_registration(principal, name, body)
    model, created, before = await gateway.registry.add(name, body)
    details = body if before is None else {**body, "before": registration(before)}
    await note_audit("model.create" if created else "model.change", f"model:{name}", details, tenant="")
    return JSONResponse(model.describe(), status_code=201 if created else 200)


async def _known_model(name: str, principal: Caller, gateway: TheGateway) -> str:
    """The model of the path. What is wrong with the path is said before anything of the body: `/models/m/load` takes no
    other method, and is no model."""
    require_model_access(principal, name)
    await gateway.registry.resolve(name)
    return name


@router.patch("/models/{name:path}", name="models_change")
@requires(Scope.MODELS_WRITE)
async def change_model(
    name: Annotated[str, Depends(_known_model)],
    body: RegistrationFields,
    principal: Caller,
    gateway: TheGateway,
    note_audit: AuditNote,
    revision: Annotated[str | None, Query(max_length=64)] = None,
) -> ModelState:
    """Changes a model that was registered at run time: each field that is given takes the place of the old one, null
    gives its default, the others stay. All of it applies at once or nothing; running requests finish as they began.

    `revision`, as `GET` tells it, has the change refused (409) where somebody else has changed the model since.
    """
    if not body:
        raise InvalidRequest("give at least one field to change, such as 'deployments' or 'fallbacks'")
    whole = partial(_check_registration, principal, name)
    model, before, after = await gateway.registry.change(name, body, whole, revision)
    if after != before:
        await note_audit("model.change", f"model:{name}", _differences(before, after), tenant="")
    return ModelState.model_validate({**model.describe(), **_written(after)})


@router.delete("/models/{name:path}", name="models_remove", status_code=204)
@requires(Scope.MODELS_WRITE)
async def remove_model(name: str, principal: Caller, gateway: TheGateway, note_audit: AuditNote) -> None:
    """Removes a model that was registered at run time; running requests finish."""
    require_model_access(principal, name)
    before = await gateway.registry.remove(name)
    details = {} if before is None else {"before": registration(before)}
    await note_audit("model.remove", f"model:{name}", details, tenant="")


def _writes_models(principal: Principal) -> bool:
    return Scope.MODELS_WRITE in principal.scopes or Scope.ADMIN in principal.scopes


def _written(settings: Model) -> dict[str, Any]:
    """What a run-time model was registered with, for those who may change it."""
    return {"registration": registration(settings), "revision": revision_of(settings)}


def _differences(before: Model, after: Model) -> dict[str, Any]:
    """The fields that differ, as they are now, and under ``before`` as they were; null stands for the default."""
    old, new = registration(before), registration(after)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return {**{name: new.get(name) for name in names}, "before": {name: old.get(name) for name in names}}


def require_model_access(principal: Principal, name: str) -> None:
    """Raises :class:`NotFound` for a model that the caller may not use, as if it did not exist."""
    if not principal.allows_model(name):
        raise NotFound(f"model '{name}' is not one that this credential reaches", param="name", code="model_not_found")


def _check_registration(principal: Principal, name: str, body: Mapping[str, Any]) -> None:
    """Raises :class:`PermissionDenied` when the new name would give access to a model that the caller may not use."""
    names = [("name", name)]
    names += [("fallbacks", str(model)) for model in _list(body.get("fallbacks"))]
    for deployment in _list(body.get("deployments")):
        if isinstance(deployment, dict):
            models = (deployment.get("model"), deployment.get("lora"))
            names += [("deployments", f"{deployment.get('provider')}/{model}") for model in models if model is not None]
    for field, model in names:
        if not principal.allows_model(model):
            raise PermissionDenied(
                f"this credential does not reach '{model}', so it cannot register a model of it; it reaches: "
                f"{principal.reach}",
                param=field,
                code="model_not_allowed",
            )


def _list(value: Any) -> list[Any]:
    """``value`` if it is a list; the registry refuses anything else."""
    return value if isinstance(value, list) else []


def _explained_call(name: str, body: dict[str, Any]) -> ModelCall:
    """The call that is to be explained."""
    if body.setdefault("model", name) != name:
        raise InvalidRequest(f"'model' is '{name}' here, by the path; leave it out", param="model")
    operation = next((kind for field, kind in _OPERATION_FIELDS.items() if field in body), Operation.CHAT)
    if operation is Operation.CHAT:
        body.setdefault("messages", _EMPTY_CHAT)
    return ModelCall(operation, body, name, stream=take_flag(body, "stream"), fallbacks=admission.fallbacks(body))
