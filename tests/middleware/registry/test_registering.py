"""Models that are registered while the gateway runs: what a request may say, what stays on disk, and who wins."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import Running, run_gateway
from upstream import Upstream

from sage.errors import ConfigError
from sage.middleware.app.main import create_app
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def llm(up: Upstream, **models: Any) -> dict[str, Any]:
    return {"providers": {"east": {"kind": "openai", "base_url": up.url, "api_key": "k"}}, "models": models}


@pytest.fixture(scope="module")
def refusing(module_gateway: Callable[..., Running]) -> Running:
    """For registrations that are refused."""
    return module_gateway(llm={"providers": {"east": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}}})


def body(model: str = "theirs", **fields: Any) -> dict[str, Any]:
    return {"deployments": [{"provider": "east", "model": model}], **fields}


def delete(running: Running, path: str) -> requests.Response:
    return requests.delete(running.url + path, headers=running.headers(), timeout=30)


@pytest.fixture
def settings(up: Upstream, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of gateways that share one data directory, so that the next is the restart of the last."""

    def make(**models: Any) -> Settings:
        api = {"port": 0, "access_log": False}
        return Settings.model_validate(
            {"data_dir": tmp_path, "api": api, "auth": {"enabled": False}, "llm": llm(up, **models)}
        )

    return make


def kept(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "models.json").read_text())


# What a request may say


@pytest.mark.parametrize(
    ("wrong", "param", "says"),
    [
        ({"engine": {"args": []}}, "deployments.0.engine", "configuration file only"),
        ({"args": ["--trust-remote-code"]}, "deployments.0.args", "configuration file only"),
        ({"base_url": "http://169.254.169.254/"}, "deployments.0.base_url", "configuration file only"),
        ({"url": "http://x/"}, "deployments.0.url", "configuration file only"),
        ({"path": "/etc/passwd"}, "deployments.0.path", "configuration file only"),
        ({"command": ["sh"]}, "deployments.0.command", "configuration file only"),
        ({"api_key": "k"}, "deployments.0.api_key", "configuration file only"),
        ({"wieght": 2}, "deployments.0", "did you mean 'weight'?"),
        ({"weight": 0}, "deployments.0.weight", "greater than 0"),
        ({"provider": "west"}, "deployments.0.provider", "configured: east, local"),
        ({"provider": "cohere"}, "deployments.0.provider", "CO_API_KEY"),
        ({"provider": "local", "model": "../secret.gguf"}, "deployments.0.model", "has no model '../secret.gguf'"),
        ({"lora": "style"}, "deployments.0.lora", "LoRA"),
        ({"lora": "../../etc"}, "deployments.0.lora", "lora_dir"),
        ({"lora": "."}, "deployments.0.lora", "lora_dir"),
        ({"model": "a\nb"}, "deployments.0.model", "printable"),
        ({"model": ""}, "deployments.0.model", "at least 1"),
    ],
)
def test_a_deployment_says_only_what_a_request_may(
    refusing: Running, wrong: dict[str, Any], param: str, says: str
) -> None:
    deployment = {"provider": "east", "model": "theirs", **wrong}
    answer = refusing.post("/models/mine", {"deployments": [deployment]})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert refusing.get("/models/mine").status_code == 404
    assert not (refusing.settings.data_dir / "models.json").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "deployments"),
        ({"deployments": []}, "give at least one"),
        (body(engine={}), "configuration file only"),
        (body(command="sh"), "configuration file only"),
        (body(fallback=["x"]), "did you mean 'fallbacks'?"),
        (body(keep_alive="ten minutes"), "is not a duration"),
        (body(timeouts={"total": "20m"}), "can only narrow it"),
        (body(retries=5), "less than or equal to 2"),
    ],
)
def test_a_model_says_only_what_a_request_may(refusing: Running, given: dict[str, Any], says: str) -> None:
    answer = refusing.post("/models/mine", given)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name",
    [
        "east/theirs",
        "ollama/llama3",
        "a/load",
        "load",
        "pull/x",
        "a//b",
        "x" * 257,
        "a%0Ab",
        "%20a",
        "a/%2e%2e/b",
    ],
)
def test_names_that_would_collide_are_refused(refusing: Running, name: str) -> None:
    answer = refusing.post(f"/models/{name}", body())
    assert answer.status_code in (400, 404, 409), answer.text
    assert not (refusing.settings.data_dir / "models.json").exists()


def test_names_of_any_script_with_slashes_are_fine(up: Upstream, gateway: Callable[..., Running]) -> None:
    running = gateway(llm=llm(up))
    for name in ("团队/通义", "a.b_c-d:e@f", "org/team/quick"):
        assert running.post(f"/models/{name}", body()).status_code == 201
        assert running.chat(name).status_code == 200


# Who wins


def test_models_of_the_configuration_and_of_providers_win(up: Upstream, gateway: Callable[..., Running]) -> None:
    running = gateway(llm=llm(up, bench=body()))
    for name, says in (("bench", "is in the configuration file, which wins"), ("gemma-3-270m", "its provider knows")):
        for answer in (running.post(f"/models/{name}", body("other")), delete(running, f"/models/{name}")):
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "model_configured"
            assert says in answer.json()["error"]["message"]
    assert running.chat("bench").headers["x-sage-deployment"] == "east/theirs"


def test_a_kept_model_waits_behind_one_of_the_configuration(
    up: Upstream, settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_gateway(settings()) as running:
        assert running.post("/models/bench", body("mine")).status_code == 201
    with run_gateway(settings(bench=body("theirs"))) as running:
        shown = running.get("/models/bench").json()
        assert (shown["source"], shown["shadows"]) == ("config", True)
        assert running.chat("bench").headers["x-sage-deployment"] == "east/theirs"
        assert delete(running, "/models/bench").status_code == 409
    said = [record.getMessage() for record in caplog.records if "which wins" in record.getMessage()]
    assert said == [
        "model 'bench' is in the configuration file, which wins; the one of that name registered at run time waits"
    ]
    with run_gateway(settings()) as running:
        shown = running.get("/models/bench").json()
        assert (shown["source"], shown["shadows"]) == ("runtime", False)
        assert running.chat("bench").headers["x-sage-deployment"] == "east/mine"


# Changing one


def change(running: Running, path: str, fields: Any, **query: str) -> requests.Response:
    return running.request("PATCH", path, json=fields, params=query)


def test_a_model_is_changed_in_place(up: Upstream, settings: Callable[..., Settings], tmp_path: Path) -> None:
    price = {"input": "1", "output": "2"}
    given = body("one", keep_alive="90s", pin=True, fallbacks=["bench"])
    given["deployments"][0]["price"] = price
    with run_gateway(settings(bench=body("theirs"))) as running:
        assert running.post("/models/team/mine", given).status_code == 201
        shown = running.get("/models/team/mine").json()
        assert shown["registration"]["keep_alive"] == 90
        assert running.get("/models/bench").json()["registration"] is None  # the file's
        two = [*given["deployments"], {"provider": "east", "model": "two", "priority": 1}]
        answer = change(running, "/models/team/mine", {"deployments": two, "keep_alive": None, "retries": 0})
        assert answer.status_code == 200, answer.text
        changed = answer.json()
        assert [(each["model"], each["priority"]) for each in changed["deployments"]] == [("one", 0), ("two", 1)]
        assert changed["registration"] == {"deployments": two, "fallbacks": ["bench"], "pin": True, "retries": 0}
        assert changed["revision"] != shown["revision"]
        late = change(running, "/models/team/mine", {"pin": False}, revision=shown["revision"])
        assert (late.status_code, late.json()["error"]["code"]) == (409, "model_changed")
        assert change(running, "/models/team/mine", {"pin": False}, revision=changed["revision"]).status_code == 200
        assert running.chat("team/mine").headers["x-sage-deployment"] == "east/one"
        before = running.get("/models/team/mine").json()
    with run_gateway(settings(bench=body("theirs"))) as running:
        assert running.get("/models/team/mine").json()["registration"] == before["registration"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"fallbacks": ["bench"], "deployments": [{"provider": "gone", "model": "m"}]}, "deployments.0.provider"),
        ({"deployments": [{"provider": "east", "model": "m", "weight": 0}]}, "deployments.0.weight"),
        ({"deployments": None}, "deployments"),
        ({"deployments": []}, "deployments"),
        ({"pin": True, "base_url": "http://192.0.2.1"}, "base_url"),
        ({"pin": True, "colour": "red"}, None),
        ({"timeouts": {"total": 1e9}}, "timeouts.total"),
        ({}, None),
        ([], None),
    ],
)
def test_a_change_that_is_wrong_leaves_the_model_as_it_was(refusing: Running, fields: Any, param: str | None) -> None:
    assert refusing.post("/models/kept", body(pin=True)).ok
    before, file = refusing.get("/models/kept").json(), kept(refusing.settings.data_dir)
    answer = change(refusing, "/models/kept", fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert refusing.get("/models/kept").json() == before
    assert kept(refusing.settings.data_dir) == file
    assert delete(refusing, "/models/kept").status_code == 204
    (refusing.settings.data_dir / "models.json").unlink()


def test_only_what_was_registered_at_run_time_is_changed(up: Upstream, gateway: Callable[..., Running]) -> None:
    running = gateway(llm=llm(up, bench=body()))
    assert change(running, "/models/nobody", {"pin": True}).status_code == 404
    for path in ("/models/nobody", "/models/bench/load", "/models/bench/explain"):  # whatever the body is
        answer = running.request("PATCH", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), path
    answer = change(running, "/models/bench", {"pin": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_configured")
    assert "POST /settings/reload" in answer.json()["error"]["message"]
    assert running.post("/models/mine", body()).ok
    narrow = running.new_key(models=["mine", "east/theirs"], scopes=["models:write", "models:read"])
    headers = {"Authorization": f"Bearer {narrow}"}
    url = f"{running.url}/models/mine"
    refused = requests.patch(url, json=body("other"), headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert requests.patch(url, json={"retries": 1}, headers=headers, timeout=30).json()["registration"]["retries"] == 1
    assert running.get("/models/mine", key=running.new_key(scopes=["models:read"])).json()["registration"] is None


def test_changes_of_many_at_once_are_all_kept(up: Upstream, settings: Callable[..., Settings]) -> None:
    """Fields of their own do not undo each other."""
    fields = [{"pin": True}, {"retries": 0}, {"keep_alive": 60}, {"max_concurrency": 4}, {"fallbacks": ["x"]}]
    with run_gateway(settings()) as running:
        assert running.post("/models/mine", body()).ok
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda each: change(running, "/models/mine", each), fields))
        assert [each.status_code for each in answers] == [200] * 5
        whole = running.get("/models/mine").json()["registration"]
        assert {key: value for each in fields for key, value in each.items()}.items() <= whole.items()


# What stays


def test_what_was_registered_is_there_after_a_restart(
    up: Upstream, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given = body(fallbacks=["bench"], pin=True, keep_alive="90s", retries=1, timeouts={"total": 30})
    given["deployments"][0] |= {"weight": 2.5, "priority": 3}
    with run_gateway(settings()) as running:
        assert running.post("/models/team/mine", given).status_code == 201
        assert running.post("/models/other", body()).status_code == 201
        before = running.get("/models/team/mine").json()
    assert stat.S_IMODE((tmp_path / "models.json").stat().st_mode) == 0o600
    assert kept(tmp_path)["version"] == 1
    with run_gateway(settings()) as running:
        assert running.get("/models/team/mine").json() == before
        assert before["deployments"][0]["weight"] == 2.5
        assert delete(running, "/models/team/mine").status_code == 204
    assert list(kept(tmp_path)["models"]) == ["other"]
    with run_gateway(settings()) as running:
        assert running.get("/models/team/mine").status_code == 404
        assert running.get("/models/other").status_code == 200


def test_removing_a_vendors_model_does_not_call_its_provider_unconfigured(tmp_path: Path) -> None:
    api = {"port": 0, "access_log": False}
    llm = {"providers": {"openai": {"api_key": "k"}}}
    data = {"data_dir": tmp_path, "api": api, "auth": {"enabled": False}, "llm": llm}
    with run_gateway(Settings.model_validate(data)) as running:
        for name in ("gpt-4o", "openai/gpt-4o"):
            answer = delete(running, f"/models/{name}")
            assert answer.status_code == 404
            assert f"model '{name}' is not registered" in answer.json()["error"]["message"]


def test_a_name_may_begin_with_a_preset_that_is_not_configured(settings: Callable[..., Settings]) -> None:
    """A preset that a new version adds must not make a registered model disappear."""
    with run_gateway(settings()) as running:
        assert running.post("/models/deepseek/mine", body()).status_code == 201
    with run_gateway(settings()) as running:
        assert running.get("/models/deepseek/mine").json()["source"] == "runtime"
        assert running.post("/models/openai/mine", body()).status_code == 400


def test_many_registrations_at_once_are_all_kept(settings: Callable[..., Settings], tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(24)]
    with run_gateway(settings()) as one, run_gateway(settings()) as two, ThreadPoolExecutor(8) as pool:
        gateways = [one, two] * 12
        answers = list(
            pool.map(lambda pair: pair[0].post(f"/models/{pair[1]}", body()), zip(gateways, names, strict=True))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(kept(tmp_path)["models"]) == sorted(names)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "models": {}}', '{"version": 1}', '{"version": 1, "models": {"a": {}}}']
)
def test_a_broken_file_is_named_at_start_and_left_as_it_is(
    settings: Callable[..., Settings], tmp_path: Path, text: str
) -> None:
    file = tmp_path / "models.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"models\.json .* cannot be read: .*; correct it, or move it away"):
        create_app(settings())
    assert file.read_text() == text


def test_a_disk_that_takes_nothing_leaves_nothing_registered(up: Upstream, settings: Callable[..., Settings]) -> None:
    configured = settings()
    configured.data_dir.joinpath("models.json.lock").mkdir()
    with run_gateway(configured) as running:
        answer = running.post("/models/mine", body())
        assert answer.status_code == 500
        assert running.get("/models/mine").status_code == 404


def test_the_configuration_bounds_what_was_kept_before_it_changed(
    up: Upstream, settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_gateway(settings()) as running:
        assert running.post("/models/mine", body(timeouts={"total": 500})).status_code == 201
        assert running.post("/models/west/fast", body()).status_code == 201
    changed = settings().model_dump()
    changed["llm"]["providers"]["east"] |= {"timeouts": {"total": 20}, "api_key": "k"}
    changed["llm"]["providers"]["west"] = {"kind": "openai", "base_url": up.url, "api_key": "k"}
    with run_gateway(Settings.model_validate({**changed, "data_dir": tmp_path})) as running:
        registry = running.edge.app.state.gateway.registry
        assert registry.get("mine").deployments[0].timeouts.total == 20
        assert running.chat("west/fast").headers["x-sage-deployment"] == "west/fast", "the new provider's own model"
    assert any("'west/fast' begins with 'west/'" in record.getMessage() for record in caplog.records)
    assert sorted(kept(tmp_path)["models"]) == ["mine", "west/fast"]


def test_a_kept_model_whose_provider_is_gone_says_so(
    up: Upstream, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with run_gateway(settings()) as running:
        assert running.post("/models/mine", body()).status_code == 201
    gone = settings().model_dump()
    gone["llm"]["providers"].pop("east")
    with run_gateway(Settings.model_validate({**gone, "data_dir": tmp_path})) as running:
        shown = running.get("/models/mine").json()
        assert shown["state"] == "failed"
        assert "'east' cannot serve" in shown["error"]["message"]
        assert running.chat("mine").status_code == 503
        assert delete(running, "/models/mine").status_code == 204
    assert os.path.exists(tmp_path / "models.json")
