"""``/docs``, ``/redoc`` and ``/openapi.json``: they work without the internet, and *Authorize* logs in by password."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sage.middleware.auth.routes import ROUTES
from sage.middleware.routers.generate import GenerateAnswer, GenerateRequest
from sage.middleware.routers.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest

_STATIC = "/docs/static"
_REF = "#/components/schemas/{model}"
# The hot routes, which the framework does not run, described by hand: (path, name, tag, summary, request, answer).
_HOT: tuple[tuple[str, str, str, str, type[BaseModel], type[BaseModel] | None], ...] = (
    ("/generate", "generate", "Generate", "A prompt in, a text out", GenerateRequest, GenerateAnswer),
    ("/v1/chat/completions", "chat_completions", "OpenAI", "Chat completion", ChatCompletionRequest, None),
    ("/v1/completions", "completions", "OpenAI", "Text completion", CompletionRequest, None),
    ("/v1/embeddings", "embeddings", "OpenAI", "Embeddings", EmbeddingRequest, None),
)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    """Every error, everywhere."""

    error: ErrorDetail


def add_pages(app: FastAPI, *, with_accounts: bool) -> None:
    """Adds the documentation routes to ``app``."""

    async def docs(request: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            oauth2_redirect_url="/docs/oauth2-redirect",
            swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{_STATIC}/favicon.png",
            swagger_ui_parameters={"persistAuthorization": False, "tryItOutEnabled": True},
        )

    async def redoc(request: Request) -> Response:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=app.title,
            redoc_js_url=f"{_STATIC}/redoc.standalone.js",
            redoc_favicon_url=f"{_STATIC}/favicon.png",
            with_google_fonts=False,
        )

    async def redirect(request: Request) -> Response:
        return HTMLResponse(get_swagger_ui_oauth2_redirect_html().body)

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(app, with_accounts=with_accounts))

    app.router.routes += [
        Route("/docs", docs, name="docs"),
        Route("/docs/oauth2-redirect", redirect, name="docs_oauth2_redirect"),
        Route("/redoc", redoc, name="redoc"),
        Route("/openapi.json", openapi, name="openapi"),
        Mount(_STATIC, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs_static"),
    ]


def describe(app: FastAPI, *, with_accounts: bool = True) -> dict[str, Any]:
    """The OpenAPI document: the framework's routes, the hot ones by hand, our errors and the way to log in."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    wanted: list[Any] = [(ErrorEnvelope, "validation")]
    wanted += [(model, "validation") for *_, request, answer in _HOT for model in (request, answer) if model]
    schemas.update(models_json_schema(wanted, ref_template=_REF)[1]["$defs"])
    for path, name, tag, summary, request, answer in _HOT:
        document["paths"][path] = {"post": _hot_operation(name, tag, summary, request, answer)}
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete(operation, ROUTES[operation["operationId"]] is not None, with_accounts)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if with_accounts:
        document["components"]["securitySchemes"] = {
            "password": {"type": "oauth2", "flows": {"password": {"tokenUrl": "/auth/token", "scopes": {}}}},
            "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API key."},
        }
    app.openapi_schema = document
    return document


def _hot_operation(
    name: str, tag: str, summary: str, request: type[BaseModel], answer: type[BaseModel] | None
) -> dict[str, Any]:
    whole = {"$ref": _REF.format(model=answer.__name__)} if answer else {"type": "object"}
    return {
        "tags": [tag],
        "summary": summary,
        "description": request.__doc__,
        "operationId": name,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=request.__name__)}}},
        },
        "responses": {
            "200": {
                "description": "The answer, or with `stream: true` server-sent events.",
                "content": {"application/json": {"schema": whole}, "text/event-stream": {"schema": {"type": "string"}}},
            }
        },
    }


def _complete(operation: dict[str, Any], guarded: bool, with_accounts: bool) -> None:
    envelope = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorEnvelope")}}}
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "An error, by its status.", "content": envelope}
    if guarded and with_accounts:
        operation["security"] = [{"password": []}, {"bearer": []}]
