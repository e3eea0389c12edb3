"""``/docs``, ``/redoc`` and ``/openapi.json``: they work without the internet, and *Authorize* logs in by password."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files
from pathlib import Path
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
from starlette.types import Scope

from sage.middleware.auth.routes import ROUTES
from sage.middleware.gateway.collections.requests import SearchRequest
from sage.middleware.routers.cohere.inference import CohereChatRequest, CohereEmbedRequest
from sage.middleware.routers.collections import NewCollection, ReembedRequest
from sage.middleware.routers.documents import DeleteRequest, DocumentsRequest
from sage.middleware.routers.generate import GenerateAnswer, GenerateRequest
from sage.middleware.routers.kv import PutEntry
from sage.middleware.routers.memory import MemorySearchRequest, NewMemory
from sage.middleware.routers.ollama.inference import (
    NDJSON,
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaError,
    OllamaGenerateRequest,
)
from sage.middleware.routers.openai.inference import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from sage.middleware.routers.openai.rerank import RerankAnswer, RerankRequest
from sage.middleware.routers.openai.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    ScoreAnswer,
    ScoreRequest,
    TokenizeAnswer,
    TokenizeRequest,
)
from sage.middleware.routers.search import BatchReply, BatchRequest, SearchReply
from sage.middleware.routers.vdb import DeleteItems, ItemChange, ItemsRequest, VectorSearchRequest

_STATIC = "/docs/static"
# The one address of another host in the bundle: a picture beside its maker's name, which hides itself when it is none.
_REDOC, _REDOC_PICTURE = "redoc.standalone.js", "https://cdn.redoc.ly/redoc/logo-mini.svg"
# People type passwords here: the pages' scripts come from us and speak to us only. Both are set up by inline scripts.
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; worker-src blob:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}
# In the dialog of *Authorize*, name and password come first and have the cursor; OAuth's client, which we have none of,
# and the text on scopes, which the password form gives all of, are left out.
_STYLE = """<style>
.swagger-ui .scope-def, .swagger-ui .auth-container .flow,
.swagger-ui .auth-container .wrapper:has(> [for=client_id_password]),
.swagger-ui .auth-container .wrapper:has(> [for=client_secret_password]),
.swagger-ui .auth-container .wrapper:has(> [for=password_type]) { display: none }
.swagger-ui .modal-ux-content { display: flex; flex-direction: column-reverse }
.swagger-ui .modal-ux-content .auth-container { border: 0 }
</style></head>"""
_REF = "#/components/schemas/{model}"
# The hot routes, which the framework does not run, described by hand: (path, name, tag, summary, request, answer).
_HOT: tuple[tuple[str, str, str, str, type[BaseModel], type[BaseModel] | None], ...] = (
    ("/generate", "generate", "Generate", "A prompt in, a text out", GenerateRequest, GenerateAnswer),
    ("/v1/chat/completions", "chat_completions", "OpenAI", "Chat completion", ChatCompletionRequest, None),
    ("/v1/completions", "completions", "OpenAI", "Text completion", CompletionRequest, None),
    ("/v1/embeddings", "embeddings", "OpenAI", "Embeddings", EmbeddingRequest, None),
    ("/v1/rerank", "rerank", "Cohere", "Documents in the order of a query", RerankRequest, RerankAnswer),
    ("/v2/chat", "cohere_chat", "Cohere", "Chat", CohereChatRequest, None),
    ("/v2/embed", "cohere_embed", "Cohere", "Embeddings", CohereEmbedRequest, None),
    ("/v2/rerank", "cohere_rerank", "Cohere", "Documents in the order of a query", RerankRequest, RerankAnswer),
    ("/api/chat", "ollama_chat", "Ollama", "Chat", OllamaChatRequest, None),
    ("/api/generate", "ollama_generate", "Ollama", "A prompt in, a text out", OllamaGenerateRequest, None),
    ("/api/embed", "ollama_embed", "Ollama", "Embeddings", OllamaEmbedRequest, None),
    ("/api/embeddings", "ollama_embeddings", "Ollama", "Embedding of one text", OllamaEmbeddingsRequest, None),
    ("/v1/score", "score", "vLLM", "Scores of pairs of texts", ScoreRequest, ScoreAnswer),
    ("/v1/tokenize", "tokenize", "vLLM", "Tokens of a text", TokenizeRequest, TokenizeAnswer),
    ("/v1/detokenize", "detokenize", "vLLM", "Text of tokens", DetokenizeRequest, DetokenizeAnswer),
    ("/search", "search", "Search", "The best documents for a query", SearchRequest, SearchReply),
    ("/search/batch", "search_batch", "Search", "Several searches at once", BatchRequest, BatchReply),
)
# Bodies that framework routes read themselves.
_BODIES: tuple[type[BaseModel], ...] = (
    NewCollection,
    ReembedRequest,
    DocumentsRequest,
    DeleteRequest,
    PutEntry,
    ItemsRequest,
    VectorSearchRequest,
    ItemChange,
    DeleteItems,
    NewMemory,
    MemorySearchRequest,
)

_TAGS = (
    ("Generate", "The gateway's own, smallest way to an answer."),
    ("OpenAI", "For every client of OpenAI's API: its `base_url` is this server's address and `/v1`."),
    ("Cohere", "For Cohere's own clients: their `base_url` is this server's address. Any model answers."),
    ("Ollama", "For Ollama's own clients: their `host` is this server's address. Any model answers."),
    ("vLLM", "vLLM's own additions to OpenAI's API, for every provider that can."),
    ("Models", "What can answer, and what is in memory."),
    ("Search", "Collections of documents, found by their words and by what they mean."),
    ("Services", "Values by key, vectors, and the memory of agents: each tenant has its own."),
    ("Accounts", "Login, keys and users."),
    ("Operation", "For who runs the gateway."),
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
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            oauth2_redirect_url="/docs/oauth2-redirect",
            swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{_STATIC}/favicon.png",
            swagger_ui_parameters={"persistAuthorization": False, "tryItOutEnabled": True},
        )
        return HTMLResponse(bytes(page.body).replace(b"</head>", _STYLE.encode()), headers=_POLICY)

    async def redoc(request: Request) -> Response:
        page = get_redoc_html(
            openapi_url="/openapi.json",
            title=app.title,
            redoc_js_url=f"{_STATIC}/redoc.standalone.js",
            redoc_favicon_url=f"{_STATIC}/favicon.png",
            with_google_fonts=False,
        )
        return HTMLResponse(page.body, headers=_POLICY)

    async def redirect(request: Request) -> Response:
        return HTMLResponse(get_swagger_ui_oauth2_redirect_html().body)

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(app, with_accounts=with_accounts))

    app.router.routes += [
        Route("/docs", docs, name="docs"),
        Route("/docs/oauth2-redirect", redirect, name="docs_oauth2_redirect"),
        Route("/redoc", redoc, name="redoc"),
        Route("/openapi.json", openapi, name="openapi"),
        Mount(_STATIC, _Bundles(directory=str(files("fastapi_offline") / "static")), name="docs_static"),
    ]


class _Bundles(StaticFiles):
    """The pages' scripts and styles, without addresses of other hosts."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path != _REDOC:
            return await super().get_response(path, scope)
        file, _ = self.lookup_path(path)
        script = await asyncio.to_thread(Path(file).read_text, encoding="utf-8")
        return Response(script.replace(_REDOC_PICTURE, "data:,"), media_type="text/javascript")


def describe(app: FastAPI, *, with_accounts: bool = True) -> dict[str, Any]:
    """The OpenAPI document: the framework's routes, the hot ones by hand, our errors and the way to log in."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["tags"] = [
        {"name": name, "description": text} for name, text in _TAGS if with_accounts or name != "Accounts"
    ]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    wanted: list[Any] = [(ErrorEnvelope, "validation"), (OllamaError, "validation")]
    wanted += [(model, "validation") for *_, request, answer in _HOT for model in (request, answer) if model]
    wanted += [(model, "validation") for model in _BODIES]
    schemas.update(models_json_schema(wanted, ref_template=_REF)[1]["$defs"])
    for path, name, tag, summary, request, answer in _HOT:
        document["paths"][path] = {"post": _hot_operation(name, tag, summary, request, answer)}
    for operations in document["paths"].values():
        for operation in operations.values():
            _entitle(operation)
            _complete(operation, ROUTES[operation["operationId"]] is not None, with_accounts)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if with_accounts:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API key."},
            "password": {"type": "oauth2", "flows": {"password": {"tokenUrl": "/auth/token", "scopes": {}}}},
        }
    app.openapi_schema = document
    return document


def _hot_operation(
    name: str, tag: str, summary: str, request: type[BaseModel], answer: type[BaseModel] | None
) -> dict[str, Any]:
    whole = {"$ref": _REF.format(model=answer.__name__)} if answer else {"type": "object"}
    schema = {"$ref": _REF.format(model=request.__name__)}
    # Only what has an example of its own: every optional field as null would be refused upstream.
    example = {field: info.examples[0] for field, info in request.model_fields.items() if info.examples}
    return {
        "tags": [tag],
        "summary": summary,
        "description": request.__doc__,
        "operationId": name,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        },
        "responses": {"200": _hot_answer(whole, tag, streams="stream" in request.model_fields)},
    }


def _hot_answer(whole: dict[str, Any], tag: str, *, streams: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": whole}}
    if not streams:
        return {"description": "The answer.", "content": content}
    if tag == "Ollama":
        content[NDJSON] = {"schema": {"type": "string"}}
        return {"description": "A line of JSON for each piece, or with `stream: false` the answer.", "content": content}
    content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "The answer, or with `stream: true` server-sent events.", "content": content}


def _entitle(operation: dict[str, Any]) -> None:
    """The framework makes a title of the function's name; the first sentence of what it promises reads better."""
    if operation["summary"] == operation["operationId"].replace("_", " ").title():
        text = operation.get("description", operation["summary"]).replace("``", "`")
        first, *rest = re.split(r"\.\s+", text, maxsplit=1)
        operation["summary"] = first.removesuffix(".").replace("`", "")
        operation["description"] = "".join(rest)


def _complete(operation: dict[str, Any], guarded: bool, with_accounts: bool) -> None:
    shape = "OllamaError" if "Ollama" in operation.get("tags", ()) else "ErrorEnvelope"
    envelope = {"application/json": {"schema": {"$ref": _REF.format(model=shape)}}}
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "An error, by its status.", "content": envelope}
    if guarded and with_accounts:
        operation["security"] = [{"password": []}, {"bearer": []}]
