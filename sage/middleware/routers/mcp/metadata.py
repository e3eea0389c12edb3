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
    """The metadata of RFC 9728. Without `authorization_servers` clients use API keys, with these scopes. With them the
    scopes are those that the OpenID provider is asked for; clients ask theirs for the same."""

    resource: str
    authorization_servers: list[str] | None = None
    scopes_supported: list[str] | None = None
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
    metadata: dict[str, Any] = {
        "resource": f"{base_url(request.scope, settings)}/mcp",
        "bearer_methods_supported": ["header"],
        "resource_name": "SAGE Middleware",
    }
    oidc = settings.auth.oidc if settings.auth.oidc is not None and settings.auth.oidc.audience is not None else None
    servers = list(settings.mcp.authorization_servers) or ([oidc.issuer] if oidc is not None else [])
    if servers:  # an empty list would be against RFC 9728, 3.2
        metadata["authorization_servers"] = servers
    else:
        metadata["scopes_supported"] = [*_SCOPES]
    if servers and oidc is not None:  # a provider refuses a login that asks for our scopes, which it does not know
        metadata["scopes_supported"] = [*dict.fromkeys(("openid", *oidc.scopes))]
    return JSONResponse(metadata, headers={"cache-control": "no-store", "vary": "Host"})


def base_url(scope: Scope, settings: Settings) -> str:
    """The gateway's own address: the configured one, or as this request's ``Host`` has it (the edge has checked that it
    is one)."""
    if settings.mcp.public_url is not None:
        return settings.mcp.public_url.rstrip("/")
    return f"{scope['scheme']}://{header(scope, b'host')}"
