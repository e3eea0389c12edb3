"""``/``, ``/docs``, ``/redoc``, ``/openapi.json``: they work without the internet, *Authorize* logs in by password."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

import orjson
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from sage.middleware.app.openapi import describe

_STATIC = "/docs/static"
# The only address of another host in the bundle: a logo, which hides itself when it cannot be loaded.
_REDOC, _REDOC_PICTURE = "redoc.standalone.js", "https://cdn.redoc.ly/redoc/logo-mini.svg"
# People type passwords here, so scripts come from the gateway and connect to it only. Both pages need inline scripts.
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; worker-src blob:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}
# In the dialog of *Authorize*, name and password come first and have the cursor. Hidden are the fields of an OAuth
# client, which we do not have, and the text about scopes: a password gives all of them.
_STYLE = """<style>
.swagger-ui .scope-def, .swagger-ui .auth-container .flow,
.swagger-ui .auth-container .wrapper:has(> [for=client_id_password]),
.swagger-ui .auth-container .wrapper:has(> [for=client_secret_password]),
.swagger-ui .auth-container .wrapper:has(> [for=password_type]) { display: none }
.swagger-ui .modal-ux-content { display: flex; flex-direction: column-reverse }
.swagger-ui .modal-ux-content .auth-container { border: 0 }
</style></head>"""
# The dialog is no form, so that Enter would do nothing: here it presses the button of its part of the dialog.
_ENTER = """<script>
document.addEventListener("keydown", event => {
  const part = event.key === "Enter" && !event.isComposing && event.target.closest(".modal-ux .auth-container")
  const button = part && event.target.matches("input") && part.querySelector(".btn.authorize")
  if (button) { event.preventDefault(); button.click() }
})
</script></body>"""


def add_pages(app: FastAPI, *, with_accounts: bool, home: str = "/docs") -> None:
    """Adds the documentation routes to ``app``, and ``/``, which leads a browser to ``home``."""

    async def root(request: Request) -> Response:
        """Leads a browser to the console; others learn that there is a gateway, as Ollama's clients ask first."""
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(home, headers={"vary": "accept"})
        return PlainTextResponse("SAGE Middleware is running\n", headers={"vary": "accept"})

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
        text = bytes(page.body).decode().replace("</head>", _STYLE).replace("</body>", _ENTER)
        return HTMLResponse(text, headers=_POLICY)

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

    document = b""
    describing = asyncio.Lock()

    async def openapi(request: Request) -> Response:
        """Made once, on a thread: it takes some tenths of a second, and anyone may ask."""
        nonlocal document
        async with describing:
            document = document or await asyncio.to_thread(
                lambda: orjson.dumps(describe(app, with_accounts=with_accounts))
            )
        return Response(document, media_type="application/json")

    app.router.routes += [
        Route("/", root, name="root"),
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
