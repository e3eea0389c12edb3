"""``/models?watch=true`` over real HTTP: states come when they change, to who may see them, and end with that right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import Running, run_gateway
from upstream import Upstream

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

NEW = {"deployments": [{"provider": "up", "model": "new"}]}


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        models = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("bench", "other")}
        yield module_gateway(llm={"providers": providers, "models": models})


@contextmanager
def watching(gateway: Running, path: str, key: str | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of ``path`` as they come; an error event is one of them."""
    headers = {"authorization": f"Bearer {key or gateway.key}"}
    with requests.get(f"{gateway.url}{path}", headers=headers, stream=True, timeout=30) as answer:
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in answer.iter_lines() if line.startswith(b"data:"))
        yield (json.loads(line[5:]) for line in lines)


def names(event: dict[str, Any]) -> list[str]:
    return [model["name"] for model in event["models"]]


def test_the_list_tells_all_and_then_what_changes(running: Running) -> None:
    with watching(running, "/models?watch=true") as events:
        first = next(events)
        listed = running.get("/models").json()
        assert (first["whole"], first["removed"]) == (True, [])
        assert first["models"] == [{name: model[name] for name in first["models"][0]} for model in listed["models"]]
        assert (first["memory"], first["providers"]) == (listed["memory"], listed["providers"])
        running.chat("bench").raise_for_status()
        used = next(event for event in events if event["models"][0]["last_used"])
        assert (used["whole"], names(used), used["removed"]) == (False, ["bench"], [])
        running.post("/models/new", NEW).raise_for_status()
        assert names(next(events)) == ["new"]
        running.request("DELETE", "/models/new").raise_for_status()
        gone = next(events)
        assert (names(gone), gone["removed"]) == ([], ["new"])


def test_one_model_tells_its_state_and_its_end(running: Running) -> None:
    running.post("/models/short/lived", NEW).raise_for_status()
    with watching(running, "/models/short/lived?watch=true") as events:
        assert next(events) == running.get("/models/short/lived").json()
        running.request("PATCH", "/models/short/lived", json={"fallbacks": ["bench"]}).raise_for_status()
        assert next(events)["fallbacks"] == ["bench"]
        running.request("DELETE", "/models/short/lived").raise_for_status()
        assert next(events)["error"]["code"] == "model_not_found"
        assert next(events, None) is None
    assert running.get("/models/short/lived?watch=true").status_code == 404


def test_a_key_sees_its_models_alone_and_no_longer_than_it_may(running: Running) -> None:
    made = running.post("/auth/keys", {"models": ["bench"], "scopes": ["models:read"]}).json()
    with watching(running, "/models?watch=true", made["key"]) as events:
        first = next(events)
        assert (names(first), first["providers"], first["memory"]["engines"]) == (["bench"], [], [])
        running.request("PATCH", f"/auth/keys/{made['id']}", json={"models": ["other"]}).raise_for_status()
        assert next(events)["error"]["type"] == "permission_error"
        assert next(events, None) is None
    with watching(running, "/models?watch=true", made["key"]) as events:
        assert names(next(events)) == ["other"]


def test_who_watches_does_not_keep_a_gateway_that_shuts_down(tmp_path: Path) -> None:
    """It would wait for them as for a request, half a minute long."""
    settings = Settings.model_validate({"data_dir": tmp_path, "api": {"port": 0, "access_log": False}})
    with ExitStack() as open_streams:
        with run_gateway(settings) as ending:
            paths = ("/models?watch=true", "/models/gemma-3-270m?watch=true", "/metrics/live")
            streams = [open_streams.enter_context(watching(ending, path)) for path in paths]
            assert all(next(events) for events in streams)
            began = time.monotonic()
        assert time.monotonic() - began < 15
        assert not any("error" in event for events in streams for event in events)
