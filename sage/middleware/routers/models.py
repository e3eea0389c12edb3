"""``/models``: what there is, in which state, and the switch to load and unload it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sage.errors import NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.routers.guard import GuardedRoute
from sage.middleware.routers.openai import Caller, TheGateway

router = APIRouter(route_class=GuardedRoute, tags=["Models"])


class ModelState(BaseModel):
    """A model; ``state``: ``unloaded``, ``loading``, ``ready``, ``draining`` or ``failed``. Times are Unix seconds."""

    name: str
    state: str
    provider: str | None
    deployments: list[dict[str, Any]]
    fallbacks: list[str]
    loaded_at: float | None
    last_used: float | None
    in_flight: int
    error: dict[str, Any] | None


class ModelStates(BaseModel):
    """All models that the caller may use."""

    models: list[ModelState]


@router.get("/models", name="models_list")
async def list_models(principal: Caller, gateway: TheGateway) -> ModelStates:
    """The registered models that this credential reaches, with their states."""
    found = [model.describe() for model in gateway.registry.models() if principal.allows_model(model.name)]
    return ModelStates(models=[ModelState.model_validate(model) for model in found])


@router.post(
    "/models/{name:path}/load", name="models_load", response_model=ModelState, responses={202: {"model": ModelState}}
)
async def load_model(name: str, principal: Caller, gateway: TheGateway, wait: bool = True) -> JSONResponse:
    """Makes a local model ready; answers once it is, or at once with 202 under ``?wait=false``."""
    _reach(principal, name)
    model = await gateway.registry.load(name, wait=wait)
    state = model.describe()
    return JSONResponse(state, status_code=200 if wait or state["state"] == "ready" else 202)


@router.post("/models/{name:path}/unload", name="models_unload")
async def unload_model(name: str, principal: Caller, gateway: TheGateway) -> ModelState:
    """Ends a local model's process once the requests that run have ended; its memory is free then."""
    _reach(principal, name)
    model = await gateway.registry.unload(name)
    return ModelState.model_validate(model.describe())


@router.get("/models/{name:path}", name="models_show")
async def show_model(name: str, principal: Caller, gateway: TheGateway) -> ModelState:
    """One model and its state."""
    _reach(principal, name)
    model = await gateway.registry.resolve(name)
    return ModelState.model_validate(model.describe())


def _reach(principal: Principal, name: str) -> None:
    """A model beyond the credential's reach looks like one that is not there."""
    if not principal.allows_model(name):
        raise NotFound(f"model '{name}' is not one that this credential reaches", param="name", code="model_not_found")
