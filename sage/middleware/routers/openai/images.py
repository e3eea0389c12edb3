"""``/v1/images/generations``, ``/v1/images/edits`` and ``/v1/images/variations``.

Source: OpenAI's API reference, *Images*.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.providers.base import Operation
from sage.middleware.routers.http.forms.parts import FORM
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.openai.relays import FormRelay, JsonRelay


class ImageForms(FormRelay):
    """Forms with images. What they cost depends on ``n``: unless it stands before the images, all of a form is read
    first."""

    required = ("model", "n")
    file_field = "image"
    setting = "llm.limits.max_image_bytes"

    @property
    def limit(self) -> int:
        return self._gateway.limits.max_image_bytes


class ImageEdits(ImageForms):
    """Edits may also be asked for with a JSON, in which images are ``data:`` URLs."""

    takes_json = True


class ImageRequest(OpenBody):
    """A description of an image. Fields that are not listed go on to the provider unchanged."""

    model: str = Field(examples=["gpt-image-1"])
    prompt: str = Field(examples=["A lighthouse in the fog"])
    n: int | None = None
    size: str | None = Field(None, examples=["1024x1024"])
    quality: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    stream: bool = False
    partial_images: int | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class ImageEditRequest(OpenBody):
    """A form with one image or several (`image[]`), perhaps a mask, and what to change."""

    model: str = Field(examples=["gpt-image-1"])
    prompt: str = Field(examples=["Add a ship"])
    image: str | list[str] | None = Field(None, description="The images, in a form.")
    images: list[dict[str, Any]] | None = Field(None, description="The images, in a JSON: each an `image_url`.")
    mask: str | dict[str, Any] | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    stream: bool = False
    partial_images: int | None = None


class ImageVariationRequest(OpenBody):
    """A form with an image that others are to be like."""

    model: str = Field(examples=["dall-e-2"])
    image: str = Field(description="The image.", json_schema_extra={"format": "binary"})
    n: int | None = None
    size: str | None = None
    response_format: str | None = None


_hot_route = partial(HotRoute, scope=Permission.GENERATE, tag="OpenAI")
ROUTES = (
    _hot_route(
        path="/v1/images/generations",
        name="image_generations",
        summary="Images of a description",
        request=ImageRequest,
        endpoint=partial(JsonRelay, operation=Operation.IMAGES),
    ),
)
FORM_ROUTES = (
    _hot_route(
        path="/v1/images/edits",
        name="image_edits",
        summary="Changed images",
        request=ImageEditRequest,
        endpoint=partial(ImageEdits, operation=Operation.IMAGE_EDITS),
        takes=(FORM, "application/json"),
    ),
    _hot_route(
        path="/v1/images/variations",
        name="image_variations",
        summary="Images like another",
        request=ImageVariationRequest,
        endpoint=partial(ImageForms, operation=Operation.IMAGE_VARIATIONS),
        takes=(FORM,),
    ),
)
"""Those that take a form."""
