"""``/settings``: where each value comes from, no secret in any answer, and a file that is read again."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configured_gateway import configured, rewrite
from running_gateway import Running
from upstream import Upstream

from sage.middleware.settings.effective.masking import MASK

_NUMBERS = itertools.count(1)
SECRET = re.compile(r"zq\d+Xw\d+")


def secret() -> str:
    """One that stands nowhere else."""
    number = next(_NUMBERS)
    return f"zq{number:03}Xw{number * 7919}"


def everywhere() -> dict[str, Any]:
    """A configuration with a secret in every place that takes one, and in those that take any text."""
    provider = {"kind": "openai", "base_url": f"http://127.0.0.1:9/v1?code={secret()}", "api_key": secret()}
    provider |= {"api_keys": [secret(), secret()], "headers": {"X-Team": secret()}, "organization": secret()}
    provider |= {"proxy": f"http://me:{secret()}@127.0.0.1:9"}
    vllm = {"kind": "vllm", "command": ["/bin/false", "serve", "--api-key", secret(), f"--token={secret()}", secret()]}
    vllm |= {"environment": {"HUB": secret()}}
    engine = {"args": ["--hf-token", secret(), f"-p{secret()}", "--max-model-len", "4096"]}
    webhooks = {"hosts": ["hooks.example"], "secret": "whsec_" + "c2VjcmV0LXpxWHd3ZWJob29rLTc3NzctYWJjZGVm"}
    schedule = {"every": "1h", "task": "ingest", "user": "root"}
    schedule |= {
        "params": {"collection": "c", "urls": [f"https://u:{secret()}@h.example/?k={secret()}"], "key": secret()}
    }
    return {
        "llm": {
            "providers": {"east": provider, "vllm": vllm},
            "models": {"big": {"deployments": [{"provider": "vllm", "model": "m", "engine": engine}]}},
        },
        "queue": {"embedded_worker": False, "webhooks": webhooks, "schedules": {"nightly": schedule}},
        "budgets": {"webhook": f"https://hooks.example/services/T0/{secret()}"},
        "services": {"kv": {"redis_url": f"redis://:{secret()}@127.0.0.1:9"}},
        "auth": {"oidc": {"issuer": "https://id.example", "client_id": "c", "client_secret": secret()}},
        "mcp": {
            "servers": {
                "far": {"url": f"https://mcp.example/s/{secret()}/mcp?key={secret()}", "headers": {"A": secret()}},
                "near": {"command": ["/bin/false", "--token", secret(), secret()], "environment": {"T": secret()}},
            },
        },
    }


def by_path(running: Running) -> dict[str, Any]:
    return {".".join(each["path"]): each for each in running.get("/settings").json()["settings"]}


def test_no_secret_is_shown_wherever_it_stands(tmp_path: Path) -> None:
    sections = everywhere()
    environ = {"SAGE_LIMITS__REDIS": f"redis://u:{secret()}@127.0.0.1:9", "GROQ_API_KEY": secret()}
    written = json.dumps(sections) + json.dumps(environ)
    used = SECRET.findall(written)
    assert len(set(used)) == len(used) >= 26
    sections["limits"] = {}
    with configured(tmp_path / "sage.yaml", sections, environ) as running:
        answer = running.get("/settings")
        assert answer.status_code == 200
        file = tmp_path / "sage.yaml"
        changed = file.read_text().replace(used[0], "another-code-99").replace(used[1], "another-key-99")
        file.write_text(changed.replace("every: 1h", f"every: {used[2]}"))
        wrong = running.post("/settings/reload", {"dry_run": True})
        file.write_text(changed)
        plan = running.post("/settings/reload", {"dry_run": True})
    assert wrong.status_code == 400
    assert "queue.schedules.nightly.every" in wrong.text
    assert {tuple(each["path"][-2:]) for each in plan.json()["changes"]} == {("east", "base_url"), ("east", "api_key")}
    for text in (answer.text, wrong.text, plan.text):
        for each in (*used, "another-code-99", "another-key-99", "c2VjcmV0LXpx"):
            assert each not in text
    shown = {".".join(each["path"]): each for each in answer.json()["settings"]}
    assert shown["llm.providers.east.base_url"]["value"] == f"http://127.0.0.1:9/v1?code={MASK}"
    assert shown["llm.providers.east.api_keys"]["value"] == [MASK, MASK]
    assert shown["llm.providers.east.api_key"]["hidden"]
    assert shown["llm.models.big.deployments.0.engine.args"]["value"] == [
        "--hf-token",
        MASK,
        MASK,
        "--max-model-len",
        "4096",
    ]
    assert shown["mcp.servers.far.url"]["value"] == f"https://mcp.example/{MASK}?key={MASK}"


def test_each_value_names_its_source(tmp_path: Path) -> None:
    sections = {"llm": {"keep_alive": "5m", "providers": {"openai": {"api_key": "${SOME_KEY}"}}}}
    environ = {"SAGE_QUEUE__CONCURRENCY": "3", "SOME_KEY": "sk-zqXw", "GROQ_API_KEY": "gsk-zqXw"}
    with configured(tmp_path / "sage.yaml", sections, environ) as running:
        running.post(
            "/models/mine", {"deployments": [{"provider": "openai", "model": "gpt-4o-mini"}]}
        ).raise_for_status()
        shown = by_path(running)
        assert running.get("/settings").json()["file"] == str(tmp_path / "sage.yaml")
    found = {path: (shown[path]["value"], shown[path]["source"]) for path in SOURCES}
    assert found == SOURCES
    assert (shown["llm.keep_alive"]["default"], shown["llm.keep_alive"]["unit"]) == (600.0, "seconds")
    assert (shown["api.max_body_bytes"]["unit"], shown["llm.memory_budget"]["unit"]) == ("bytes", "bytes")
    assert shown["queue.concurrency"]["unit"] is None
    assert {path: shown[path]["restart"] for path in ("llm.keep_alive", "llm.providers.openai.api_key")} == {
        "llm.keep_alive": True,
        "llm.providers.openai.api_key": False,
    }


def test_a_part_of_the_settings_is_asked_for(tmp_path: Path) -> None:
    provider = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}
    models = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("gpt-4.1", "gpt", "other")}
    with configured(tmp_path / "sage.yaml", {"llm": {"providers": {"up": provider}, "models": models}}) as running:

        def ask(**query: Any) -> Any:
            answer = running.get("/settings", params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def names(found: Any) -> list[str]:
            return [".".join(each["path"][2:]) for each in found["settings"]]

        whole = ask()
        assert (len(whole["settings"]), whole["cursor"]) == (whole["total"], None)
        assert {"api", "auth", "llm", "queue"} <= set(whole["sections"])
        assert set(whole["sources"]) == {"default", "file", "command_line"}
        assert {each["path"][2] for each in ask(prefix="llm.models.gpt")["settings"]} == {"gpt"}
        assert {each["path"][2] for each in ask(prefix='llm.models."gpt-4.1"')["settings"]} == {"gpt-4.1"}
        assert {each["path"][2] for each in ask(contains="MODELS.GPT")["settings"]} == {"gpt"}
        written = ask(prefix="llm.models", source="set")
        assert names(written)[:2] == ["gpt.deployments.0.model", "gpt.deployments.0.provider"]
        assert len(names(written)) == written["total"] == 6
        pages = [ask(prefix="llm.models", source="set", limit=4)]
        while pages[-1]["cursor"]:
            pages.append(ask(prefix="llm.models", source="set", limit=4, cursor=pages[-1]["cursor"]))
        assert [len(page["settings"]) for page in pages] == [4, 2]
        assert [name for page in pages for name in names(page)] == names(written)
        assert (ask(contains="no such").get("settings"), ask(contains="no such")["total"]) == ([], 0)
        new = {"deployments": [{"provider": "up", "model": "m"}]}
        running.post("/models/made", new).raise_for_status()
        assert "made" in {each["path"][2] for each in ask(source="api")["settings"]}  # it is not the list of before
        for wrong in ({"limit": 0}, {"cursor": "x"}, {"cursor": "[1]"}, {"cursor": "[]"}, {"source": "nowhere"}):
            answer = running.get("/settings", params=wrong)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(wrong)))


def test_several_processes_take_nothing_over(tmp_path: Path) -> None:
    """And say so, instead of telling of a reload that has not been."""
    file = tmp_path / "sage.yaml"
    provider = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}
    llm = {"providers": {"up": provider}, "models": {"old": {"deployments": [{"provider": "up", "model": "m"}]}}}
    sections = {"llm": llm, "api": {"port": 0, "workers": 2, "access_log": False}}
    with configured(file, sections) as running:
        shown = running.get("/settings?limit=1").json()
        assert (shown["reloadable"], shown["restart_only"]) == (False, True)
        assert "2 processes" in shown["not_reloadable"]
        rewrite(file, {"llm": {**llm, "models": {"new": llm["models"]["old"]}}})
        plan = running.post("/settings/reload", {"dry_run": True}).json()
        assert {each["restart"] for each in plan["changes"]} == {True}
        for body in ({}, {"revision": plan["revision"]}):
            answer = running.post("/settings/reload", body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_reloadable")
            assert "restart" in answer.json()["error"]["message"]
        assert running.get("/models/new").status_code == 404
        assert running.get("/models/old").status_code == 200


def source(kind: str, name: str | None = None, *variables: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "variables": list(variables)}


SOURCES = {
    "llm.keep_alive": (300.0, source("file")),
    "llm.providers.openai.api_key": (MASK, source("file", None, "SOME_KEY")),
    "llm.providers.groq.api_key": (MASK, source("environment", "GROQ_API_KEY")),
    "queue.concurrency": (3, source("environment", "SAGE_QUEUE__CONCURRENCY")),
    "api.host": ("127.0.0.1", source("command_line", "--host")),
    "api.max_body_bytes": (32 * 2**20, source("default")),
    "llm.models.mine.deployments.0.model": ("gpt-4o-mini", source("api")),
}


def test_a_changed_file_is_taken_over_after_it_was_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "sage.yaml"
    with Upstream() as first, Upstream() as second:

        def sections(port: Upstream, *names: str, **more: Any) -> dict[str, Any]:
            provider = {"kind": "openai", "base_url": port.url, "api_key": "sk-upstream"}
            models = {name: {"deployments": [{"provider": "up", "model": f"{name}-1"}]} for name in names}
            return {"llm": {"providers": {"up": provider}, "models": models, **more}}

        with configured(file, sections(first, "old", "stays")) as running:
            running.post("/models/new", {"deployments": [{"provider": "up", "model": "runtime"}]}).raise_for_status()
            rewrite(file, sections(second, "stays", "new", keep_alive="1m"))
            plan = running.post("/settings/reload", {"dry_run": True}).json()
            assert running.chat("old").status_code == 200  # nothing has changed yet
            assert {(".".join(each["path"]), each["change"], each["restart"]) for each in plan["changes"]} >= {
                ("llm.keep_alive", "changed", True),
                ("llm.providers.up.base_url", "changed", False),
                ("llm.models.old.deployments.0.model", "removed", False),
                ("llm.models.new.deployments.0.model", "added", False),
            }
            stale = running.post("/settings/reload", {"revision": "f" * 32})
            assert (stale.status_code, stale.json()["error"]["code"]) == (409, "configuration_changed")
            before = len(second.requests)
            done = running.post("/settings/reload", {"revision": plan["revision"]}).json()
            assert done["changes"] == plan["changes"]
            assert running.chat("old").status_code == 404
            assert running.chat("stays").status_code == 200
            assert running.chat("new").status_code == 200
            assert [request.body["model"] for request in second.requests[before:] if request.body] == [
                "stays-1",
                "new-1",
            ]
            left = running.post("/settings/reload", {"dry_run": True}).json()["changes"]
            assert [(each["path"], each["restart"]) for each in left] == [(["llm", "keep_alive"], True)]
            assert by_path(running)["llm.keep_alive"]["value"] == 600.0  # still what applies
            assert running.get("/audit?action=settings").json()["events"][0]["action"] == "settings.reload"

            rewrite(file, sections(first, "old"))  # the model that was registered at run time comes back
            assert running.post("/settings/reload", {}).status_code == 200
            assert running.chat("new").status_code == 200
            assert first.requests[-1].body["model"] == "runtime"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("llm: {models: {x: {deployments: []}}}", "llm.models.x.deployments"),
        ("llm: {modles: {}}", "did you mean 'models'"),
        ("llm: [", "line"),
    ],
)
def test_a_wrong_file_changes_nothing(running_from_file: tuple[Running, Path], text: str, fault: str) -> None:
    running, file = running_from_file
    good = file.read_text()
    try:
        file.write_text(text)
        answer = running.post("/settings/reload", {})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_configuration"
        assert fault in answer.json()["error"]["message"]
        assert running.get("/models/stays").status_code == 200
    finally:
        file.write_text(good)


@pytest.fixture(scope="module")
def running_from_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    file = tmp_path_factory.mktemp("file") / "sage.yaml"
    models = {"stays": {"deployments": [{"provider": "up", "model": "m"}]}}
    providers = {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}}
    with configured(file, {"llm": {"providers": providers, "models": models}}) as running:
        yield running, file


def test_settings_of_a_program_cannot_be_reloaded(running: Running) -> None:
    shown = running.get("/settings").json()
    assert shown["reloadable"] is False
    assert {each["source"]["kind"] for each in shown["settings"]} == {"default", "program"}
    answer = running.post("/settings/reload", {"dry_run": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_reloadable")
