"""The official SDK's OAuth client at ``/mcp``, with an OpenID provider that the gateway trusts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import requests
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from oauth_server import OAuthServer
from ports import free_port

pytestmark = pytest.mark.slow  # a gateway of its own


class Memory:
    """What a client keeps of a login."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def names_of_tools(url: str) -> list[str]:
    """The tools that a client sees whose user has logged in at the provider that the gateway names."""
    back: dict[str, list[str]] = {}

    async def browse(address: str) -> None:
        async with httpx2.AsyncClient() as browser:
            back.update(parse_qs(urlsplit((await browser.get(address)).headers["location"]).query))

    async def come_back() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=back["code"][0], state=back["state"][0])

    metadata = OAuthClientMetadata(redirect_uris=["http://127.0.0.1:1/back"], client_name="agent")
    login = OAuthClientProvider(url, metadata, Memory(), browse, come_back)
    async with (
        httpx2.AsyncClient(auth=login) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return [tool.name for tool in (await client.list_tools()).tools]


def test_a_client_logs_in_at_the_provider_and_asks_it_for_what_it_knows(gateway: Callable[..., Any]) -> None:
    with OAuthServer() as oauth:
        port = free_port()
        url = f"http://127.0.0.1:{port}/mcp"
        claims = {"user": "name", "roles": "groups"}
        oidc = {"issuer": oauth.url, "client_id": "sage", "client_secret": "s3cret", "claims": claims, "audience": url}
        running = gateway(auth={"oidc": oidc}, api={"port": port})
        metadata = requests.get(f"{running.url}/.well-known/oauth-protected-resource/mcp", timeout=30).json()
        assert metadata["authorization_servers"] == [oauth.url]
        assert "generate" in asyncio.run(names_of_tools(url))
        assert [(asked["scope"], asked["resource"]) for asked in oauth.asked] == [("openid profile email", url)]
