"""``/.well-known/oauth-protected-resource``: where clients of ``/mcp`` get a credential (RFC 9728)."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sage.errors import NotFound
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.routers.http.asgi import Scope
from sage.middleware.routers.http.browser_origin import header
from sage.middleware.routers.http.guard import guarded_router, public
from sage.middleware.settings.settings import Settings

METADATA = "/.well-known/oauth-protected-resource"
router = guarded_router("MCP")

_SCOPES = (
    *(Permission.GENERATE, Permission.SEARCH, Permission.MEMORY, Permission.KV, Permission.MODELS_READ),
    Permission.TOOLS,
)


class ProtectedResource(BaseModel):
    """The metadata of RFC 9728. `authorization_servers` is empty where clients use API keys alone."""

    resource: str
    authorization_servers: list[str]
    scopes_supported: list[str]
    bearer_methods_supported: list[str]
    resource_name: str


@router.get(f"{METADATA}/mcp", name="mcp_metadata", response_model=ProtectedResource)
@public
async def resource_metadata(request: Request) -> JSONResponse:
    """The metadata of `/mcp` as an OAuth protected resource."""
    return _metadata(request)


@router.get(METADATA, name="mcp_metadata_root", response_model=ProtectedResource)
@public
async def root_metadata(request: Request) -> JSONResponse:
    """The same, for clients that ask for it without the path."""
    return _metadata(request)


def _metadata(request: Request) -> JSONResponse:
    settings: Settings = request.app.state.settings
    if not settings.mcp.enabled or not settings.auth.enabled:
        raise NotFound("this gateway has no MCP server that needs a credential")
    servers: list[Any] = list(settings.mcp.authorization_servers)
    oidc = settings.auth.oidc
    if not servers and oidc is not None and oidc.audience is not None:
        servers = [oidc.issuer]
    metadata = {
        "resource": f"{base_url(request.scope, settings)}/mcp",
        "authorization_servers": servers,
        "scopes_supported": [*_SCOPES],
        "bearer_methods_supported": ["header"],
        "resource_name": "SAGE Middleware",
    }
    return JSONResponse(metadata, headers={"cache-control": "no-store", "vary": "Host"})


def base_url(scope: Scope, settings: Settings) -> str:
    """The gateway's own address: the configured one, or as this request's ``Host`` has it (the edge has checked that it
    is one)."""
    if settings.mcp.public_url is not None:
        return settings.mcp.public_url.rstrip("/")
    return f"{scope['scheme']}://{header(scope, b'host')}"
