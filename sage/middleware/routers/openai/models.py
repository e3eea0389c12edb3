"""OpenAI's surface: ``/v1/models``, the models that a caller may use."""

from __future__ import annotations

from pydantic import BaseModel

from sage.errors import NotFound
from sage.middleware.auth.principal import Scope
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("OpenAI")


class ModelCard(BaseModel):
    """A model in OpenAI's list."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    """OpenAI's list of models: those that the caller may use."""

    object: str = "list"
    data: list[ModelCard]


@router.get("/v1/models", name="openai_models")
@requires(Scope.MODELS_READ)
async def list_models(principal: Caller, gateway: TheGateway) -> ModelList:
    """The registered models that this credential reaches."""
    models = [model for model in gateway.registry.models() if principal.allows_model(model.name)]
    return ModelList(data=[_card(model, model.name) for model in models])


@router.get("/v1/models/{model:path}", name="openai_model")
@requires(Scope.MODELS_READ)
async def show_model(model: str, principal: Caller, gateway: TheGateway) -> ModelCard:
    """One model, by its public name (which may contain ``/``)."""
    if not principal.allows_model(model):
        raise NotFound(f"model '{model}' is not one that this credential reaches", code="model_not_found")
    return _card(await gateway.registry.resolve(model), model)


def _card(model: PublicModel, name: str) -> ModelCard:
    return ModelCard(id=name, owned_by=model.deployments[0].provider.name if model.deployments else "none")
