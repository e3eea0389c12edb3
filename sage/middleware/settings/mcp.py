"""The section ``mcp``: the gateway as an MCP server, and the MCP servers whose tools it offers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from sage.addresses import AddressRefused, AllowedHosts, parse_url
from sage.middleware.settings.oidc import SecureUrl
from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration, HeaderName, HeaderValue, Size, Text, expand

_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9]){0,23}")
HOSTS = "mcp.hosts"


def _server_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"'{name}' is no name of an MCP server: up to 24 small letters, digits and single '-' between them"
        )
    return name


def _host(entry: str) -> str:
    AllowedHosts([entry], HOSTS)
    return entry


def _server_url(url: str) -> str:
    try:
        parse_url(url)
    except AddressRefused as exc:
        raise ValueError(exc.message) from exc
    return url


ServerName = Annotated[str, AfterValidator(_server_name)]


class McpServerSettings(SettingsSection):
    """One MCP server: at a ``url`` (streamable HTTP), or a ``command`` that the gateway runs (stdio)."""

    url: Annotated[str, AfterValidator(_server_url)] | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with every request, such as ``Authorization``. Kept as secret as a key."""
    command: tuple[Text, ...] = ()
    """The program and its arguments. It runs as the gateway's user, and ends with the gateway, its children too."""
    environment: dict[str, SecretStr] = Field(default_factory=dict)
    """All of the environment that the command gets: nothing is inherited."""
    directory: Annotated[Path, AfterValidator(expand)] | None = None
    """Where the command runs; ``None`` means ``/``."""
    tools: tuple[Text, ...] = ("*",)
    """Patterns of those of its tools that are offered; ``*`` is the only wildcard."""
    timeout: Duration = 60.0
    """Seconds that a call of a tool may take."""
    connect_timeout: Duration = 10.0
    """Seconds that connecting, or listing the tools, may take."""
    max_result: Size = 256 * 2**10
    """Bytes of a result that a model, or a client, is given; the rest is cut off."""
    max_concurrency: int = Field(16, ge=1)
    """Calls at a time; further ones wait."""
    trust_first: bool = True
    """Takes the tools that the server has at first; ``false``: each must be accepted (``sage mcp accept``)."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) == (not self.command):
            raise ValueError("give either 'url' (streamable HTTP) or 'command' (a program that speaks over stdio)")
        if self.url is None and self.headers:
            raise ValueError("'headers' go with a 'url'; a command has its 'environment'")
        if any(not name or "=" in name or "\0" in name for name in self.environment):
            raise ValueError("'environment' has a name that no variable can have")
        if self.url is not None and (self.environment or self.directory is not None):
            raise ValueError("'environment' and 'directory' go with a 'command'; a url has 'headers'")
        return self


class McpSettings(SettingsSection):
    """MCP, the Model Context Protocol (extra ``mcp``)."""

    enabled: bool = True
    """Whether the gateway is an MCP server, at ``/mcp``."""
    public_url: SecureUrl | None = None
    """``https://<gateway>``, as clients know it; ``None`` means that each request's ``Host`` says it."""
    authorization_servers: tuple[SecureUrl, ...] = ()
    """OAuth servers that are named to clients, whose tokens the gateway takes (``auth.oidc.audience``)."""
    turns: int = Field(8, ge=1, le=64)
    """How often a model may be asked in one answer with tools of the gateway."""
    refresh: Duration = 60.0
    """Seconds after which a server is asked for its tools again."""
    hosts: tuple[Annotated[Text, AfterValidator(_host)], ...] = ()
    """Networks and addresses that are not public, which names of servers may have (``10.1.0.0/16:8080``). An address
    that stands in a ``url`` itself needs no entry."""
    servers: dict[ServerName, McpServerSettings] = Field(default_factory=dict)
