"""``/v1/moderations``: whether texts and images are harmful.

Source: OpenAI's API reference, *Moderations*.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.openai.inference import Inference

DEFAULT_MODEL = "omni-moderation-latest"
"""What OpenAI takes where a request names no model."""


class Moderation(Inference):
    """The ASGI endpoint."""

    def _parse(self, body: dict[str, Any]) -> ModelCall:
        if body.get("model") is None:
            body["model"] = DEFAULT_MODEL
        return ModelCall(self._operation, body, take_model(body), fallbacks=admission.fallbacks(body))


class ModerationRequest(OpenBody):
    """Texts, or texts and images, to judge."""

    input: str | list[str] | list[dict[str, Any]] = Field(examples=["I like trains."])
    model: str = Field(DEFAULT_MODEL, examples=[DEFAULT_MODEL])
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


ROUTES = (
    HotRoute(
        path="/v1/moderations",
        name="moderations",
        scope=Permission.GENERATE,
        tag="OpenAI",
        summary="Whether a text is harmful",
        request=ModerationRequest,
        endpoint=partial(Moderation, operation=Operation.MODERATIONS),
    ),
)
