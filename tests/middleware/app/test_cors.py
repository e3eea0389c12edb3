"""Pages of other sites: preflights, and the headers that let a browser hand an answer to its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests
from running_gateway import Running
from upstream import Upstream

from sage.errors import ConfigError
from sage.middleware.settings.reading import load_settings

APP = "https://app.example"


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def start(gateway: Callable[..., Running], up: Upstream, origins: list[str], **sections: dict) -> Running:
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}}
    return gateway(llm={"providers": providers, "models": models}, api={"allowed_origins": origins}, **sections)


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], up: Upstream) -> Running:
    return start(module_gateway, up, [APP, "HTTP://localhost:3000", "https://plain.example:443"])


def preflight(running: Running, origin: str, path: str = "/v1/chat/completions", **headers: str) -> requests.Response:
    sent = {"origin": origin, "access-control-request-method": "POST", **headers}
    return requests.options(running.url + path, headers=sent, timeout=10)


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "https://plain.example"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/kv/a", "/nothing"])
def test_a_preflight_of_an_allowed_origin_needs_no_credential(running: Running, origin: str, path: str) -> None:
    asked = "authorization,content-type,x-stainless-lang"
    answer = preflight(running, origin, path, **{"access-control-request-headers": asked})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-headers"] == asked
    assert set(answer.headers["access-control-allow-methods"].split(", ")) >= {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert "origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil", "https://app.example:444", "http://app.example", "null"]
)
def test_a_preflight_of_another_origin_is_refused(running: Running, origin: str) -> None:
    answer = preflight(running, origin)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert "api.allowed_origins" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", [APP, "https://evil.example", None])
def test_answers_tell_the_browser_whose_they_are(running: Running, origin: str | None) -> None:
    headers = {"origin": origin} if origin else {}
    answers = {
        200: running.chat(headers=headers),
        401: running.get("/models", headers={**headers, "authorization": "Bearer wrong"}),
        400: running.post("/v1/chat/completions", {"messages": []}, headers=headers),
        404: running.get("/nothing", headers=headers),
        405: running.request("PUT", "/generate", headers=headers),
        413: requests.post(running.url, headers={**headers, "content-length": str(2**40)}, timeout=10),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert "origin" in answer.headers["vary"]
        assert answer.headers.get("access-control-allow-origin") == (APP if origin == APP else None), status
        assert ("access-control-allow-credentials" in answer.headers) == (origin == APP)
        if origin == APP:
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
    if origin == APP:
        assert "x-sage-deployment" in answers[200].headers["access-control-expose-headers"]
        stream = running.chat(stream=True, headers=headers)
        assert stream.headers["access-control-allow-origin"] == APP
        assert stream.text.rstrip().endswith("[DONE]")


def test_any_origin_never_comes_with_credentials(gateway: Callable[..., Running], up: Upstream) -> None:
    running = start(gateway, up, ["*", APP])
    for answer in (preflight(running, "https://other.example"), running.chat(headers={"origin": "https://x.example"})):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    listed = running.chat(headers={"origin": APP})
    assert listed.headers["access-control-allow-origin"] == APP
    assert listed.headers["access-control-allow-credentials"] == "true"


def test_by_default_no_other_site_is_answered(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert preflight(running, APP).status_code == 403
    answer = requests.options(running.url + "/generate", headers={"origin": APP}, timeout=10)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert "vary" not in answer.headers


def test_without_auth_an_allowed_origin_passes(gateway: Callable[..., Running], up: Upstream) -> None:
    running = start(gateway, up, [APP], auth={"enabled": False})
    body = {"model": "bench", "prompt": "hello"}
    url = f"{running.url}/generate"
    assert preflight(running, APP).status_code == 204
    assert requests.post(url, json=body, headers={"origin": APP}, timeout=10).json()["text"] == "hello"
    refused = requests.post(url, json=body, headers={"origin": "https://evil.example"}, timeout=10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "origin")
    plain = requests.post(url, data=b"{}", headers={"origin": APP, "content-type": "text/plain"}, timeout=10)
    assert plain.json()["error"]["code"] == "content_type"


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "app.example",
        "https://app.example/",
        "https://*.example",
        "https://a@app.example",
        "https://",
        "",
        "*,x",
    ],
)
def test_what_is_no_origin_is_refused_in_the_configuration(origin: str) -> None:
    with pytest.raises(ConfigError, match="is not an origin"):
        load_settings(overrides={"api.allowed_origins": [origin]})


def test_every_origin_goes_only_with_auth() -> None:
    with pytest.raises(ConfigError, match="does not go with"):
        load_settings(overrides={"api.allowed_origins": ["*"], "auth.enabled": False})


@pytest.mark.parametrize("origin", ["chrome-extension://abcdefghijklmnop", "tauri://localhost", "http://[::1]:5173"])
def test_programs_with_a_web_view_have_origins_too(origin: str) -> None:
    assert load_settings(overrides={"api.allowed_origins": [origin]}).api.allowed_origins == (origin,)
