"""OpenAI's surface: ``/v1/models``, the models that a caller may use. Anthropic's clients get them in its shape."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel

from sage.errors import NotFound
from sage.middleware.auth.principal import Scope
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.routers.anthropic.models import (
    AnthropicModel,
    AnthropicModelPage,
    ModelsRoute,
    card,
    page,
    wants_anthropic,
)
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("OpenAI", route_class=ModelsRoute)


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
async def list_models(
    request: Request,
    principal: Caller,
    gateway: TheGateway,
    limit: int | None = None,
    after_id: str | None = None,
    before_id: str | None = None,
) -> ModelList | AnthropicModelPage:
    """The registered models that this credential reaches: all of them, or a page for who sends `anthropic-version`."""
    models = [model for model in gateway.registry.models() if principal.allows_model(model.name)]
    if wants_anthropic(request):
        return page(models, limit, after_id, before_id)
    return ModelList(data=[_card(model, model.name) for model in models])


@router.get("/v1/models/{model:path}", name="openai_model")
@requires(Scope.MODELS_READ)
async def show_model(
    request: Request, model: str, principal: Caller, gateway: TheGateway
) -> ModelCard | AnthropicModel:
    """One model, by its public name (which may contain ``/``)."""
    if not principal.allows_model(model):
        raise NotFound(f"model '{model}' is not one that this credential reaches", code="model_not_found")
    found = await gateway.registry.resolve(model)
    return card(found, model) if wants_anthropic(request) else _card(found, model)


def _card(model: PublicModel, name: str) -> ModelCard:
    return ModelCard(id=name, owned_by=model.deployments[0].provider.name if model.deployments else "none")
