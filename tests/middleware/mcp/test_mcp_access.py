"""``/mcp`` and its metadata over plain HTTP: who comes in, from where, and what junk gets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from mcp_gateway import McpGateway
from running_gateway import Running

pytestmark = pytest.mark.slow  # they share a gateway with servers behind it
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


def post(running: Running, body: Any, key: str | None = None, **headers: str) -> requests.Response:
    """One request to ``/mcp``; text is sent as it is."""
    credential = {"Authorization": f"Bearer {key}"} if key else {}
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return requests.post(f"{running.url}/mcp", data=data, headers={**HEADERS, **credential, **headers}, timeout=30)


def test_without_a_credential_a_client_learns_where_to_get_one(mcp: McpGateway) -> None:
    refused = post(mcp.running, LIST)
    assert refused.status_code == 401
    where = f"{mcp.running.url}/.well-known/oauth-protected-resource/mcp"
    assert refused.headers["WWW-Authenticate"] == f'Bearer realm="sage", resource_metadata="{where}"'
    metadata = requests.get(where, timeout=30).json()
    assert metadata["resource"] == f"{mcp.running.url}/mcp"
    assert metadata["bearer_methods_supported"] == ["header"]
    assert {"generate", "search", "tools"} <= set(metadata["scopes_supported"])
    assert requests.get(where.removesuffix("/mcp"), timeout=30).json() == metadata
    assert post(mcp.running, LIST, "sk-wrong").status_code == 401


def test_an_access_token_is_a_bearer_too_and_a_revoked_key_is_none(mcp: McpGateway) -> None:
    running, key = mcp.running, mcp.key("kv")
    form = {"username": "user-of-default", "password": "correct horse battery staple"}
    token = requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["access_token"]
    names = [tool["name"] for tool in post(running, LIST, token).json()["result"]["tools"]]
    assert "generate" in names
    assert post(running, LIST, key).status_code == 200
    assert running.accounts is not None
    running.accounts.keys.revoke(next(each.id for each in running.accounts.keys.list() if each.last4 == key[-4:]))
    until = time.monotonic() + 1.5
    while post(running, LIST, key).status_code == 200:
        assert time.monotonic() < until, "a revoked key is refused within a second"
        time.sleep(0.01)


def test_a_keys_tools_are_changed_within_a_second(mcp: McpGateway) -> None:
    key = mcp.key("tools", tools=["docs__*"])
    assert mcp.names(key) == ["docs__echo", "docs__other"]
    assert mcp.running.accounts is not None
    name = next(each.id for each in mcp.running.accounts.keys.list() if each.last4 == key[-4:])
    changed = mcp.running.request("PATCH", f"/auth/keys/{name}", json={"tools": ["docs__other"]})
    assert changed.json()["tools"] == ["docs__other"]
    mcp.wait(lambda: mcp.names(key) == ["docs__other"], 1.5)
    body = {"model": "bench", "messages": [{"role": "user", "content": "x"}]}
    refused = mcp.running.post(
        "/v1/chat/completions", {**body, "mcp": [{"server": "docs", "tools": ["echo"]}]}, key=key
    )
    assert refused.status_code in (403, 404)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("https://app.example", 403),
        ("http://{host}", 200),
    ],
)
def test_pages_of_other_sites_are_refused(mcp: McpGateway, origin: str, status: int) -> None:
    host = mcp.running.url.removeprefix("http://")
    answer = post(mcp.running, LIST, mcp.running.key, Origin=origin.format(host=host))
    assert answer.status_code == status


def test_a_name_that_was_made_to_lead_here_is_no_origin(mcp: McpGateway) -> None:
    port = mcp.running.url.rpartition(":")[2]
    rebound = f"evil.example:{port}"
    answer = post(mcp.running, LIST, mcp.running.key, Host=rebound, Origin=f"http://{rebound}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        json.dumps([LIST] * 5000),
        '{"jsonrpc": "2.0", "id": 1}',
        '{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}',
        "[" * 100_000,
        b"\xff\xfe",
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": ' + "9" * 5000 + "}",
    ],
)
def test_junk_is_refused_as_json_rpc_has_it(mcp: McpGateway, body: str | bytes) -> None:
    for version in ({}, {"MCP-Protocol-Version": "2026-07-28"}):
        answer = post(mcp.running, body, mcp.running.key, **version)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] in (-32700, -32600, -32602)


@pytest.mark.parametrize("method", ["no/such", "resources/subscribe", "prompts/get", "completion/complete"])
def test_methods_that_are_not_here_are_refused(mcp: McpGateway, method: str) -> None:
    answer = post(mcp.running, {**LIST, "method": method, "params": {"name": "x", "uri": "x://y"}}, mcp.running.key)
    assert answer.json()["error"]["code"] in (-32601, -32602)


def test_sessions_of_others_do_not_exist_and_streams_are_not_opened(mcp: McpGateway) -> None:
    running = mcp.running
    with_session = post(running, LIST, running.key, **{"Mcp-Session-Id": "0" * 32})
    assert "mcp-session-id" not in with_session.headers
    headers = {**HEADERS, **running.headers()}
    for method in ("GET", "DELETE"):
        answer = requests.request(method, f"{running.url}/mcp", headers=headers, timeout=30)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert post(running, "x" * (4 * 2**20 + 1), running.key).status_code == 413


def test_a_session_is_good_only_for_the_caller_that_began_it(gateway: Callable[..., Running]) -> None:
    from mcp_conformance_server import conformance_server

    from sage.middleware.mcp.server.transport import StreamableHttp
    from sage.middleware.routers.mcp.endpoint import MOST, McpEndpoint

    running = gateway()
    transport = StreamableHttp(conformance_server(), MOST, sessions=True)

    async def make() -> StreamableHttp:
        return transport

    route = next(each for each in running.edge.app.router.routes if getattr(each, "name", "") == "mcp")
    route.app = McpEndpoint(running.settings, running.edge.app.state.authenticator, make, ("GET", "POST", "DELETE"))
    client = {"name": "c", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    begun = post(running, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, running.key)
    session = {"Mcp-Session-Id": begun.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
    post(running, {"jsonrpc": "2.0", "method": "notifications/initialized"}, running.key, **session)
    assert "test_simple_text" in post(running, LIST, running.key, **session).text
    other = post(running, LIST, running.new_key(scopes=["generate"]), **session)
    assert (other.status_code, "Session not found" in other.text) == (404, True)
    end = requests.delete(f"{running.url}/mcp", headers={**running.headers(), **session}, timeout=30)
    assert end.status_code == 200
    assert post(running, LIST, running.key, **session).status_code == 404


def test_a_gateway_can_be_no_mcp_server(gateway: Callable[..., Running]) -> None:
    running = gateway(mcp={"enabled": False})
    assert (post(running, LIST, running.key).status_code, "mcp.enabled" in post(running, LIST, running.key).text) == (
        404,
        True,
    )
    assert running.get("/.well-known/oauth-protected-resource/mcp").status_code == 404


def test_without_the_extra_a_client_is_told_what_to_install(
    gateway: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sage.middleware.mcp.server.protocol", "mcp.server.lowlevel.server", "mcp_types"):
        monkeypatch.setitem(sys.modules, name, None)
    running = gateway(mcp={"servers": {"gone": {"url": "http://127.0.0.1:9/mcp"}}})
    answer = post(running, LIST, running.key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "missing_extra")
    assert "pip install 'intellistream-sage-middleware[mcp]'" in answer.text
