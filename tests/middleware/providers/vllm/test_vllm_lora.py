"""LoRA adapters at a vLLM server that is there, and its sleep: by the gateway's routes, against the scripted wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT
from upstream import Received, Script, Upstream, reply
from vllm_wire import VllmWire

from sage.errors import ConfigError, InvalidRequest, NotFound
from sage.middleware.app.config_check import check
from sage.middleware.app.main import make_gateway
from sage.middleware.engines.lora import LoraAdapter
from sage.middleware.providers.clients import make_transport
from sage.middleware.providers.vllm.provider import VllmProvider
from sage.middleware.settings.providers import VllmSettings
from sage.middleware.settings.settings import DeploymentSettings, Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def wire() -> VllmWire:
    return VllmWire("base")


@pytest.fixture
def up(wire: VllmWire) -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = wire
        yield upstream


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A ``lora_dir`` with the adapter ``tales``, and one outside of it."""
    for place in (tmp_path / "adapters" / "tales", tmp_path / "outside"):
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
    return tmp_path / "adapters"


@pytest.fixture
def running(up: Upstream, adapters: Path, gateway: Callable) -> Any:
    return gateway(llm=llm(up, adapters))


def llm(up: Upstream, adapters: Path, lora: str = "tales", **model: Any) -> dict[str, Any]:
    provider = {"kind": "vllm", "base_url": up.url, "api_key": "sk-upstream", "lora_dir": str(adapters)}
    models = {
        "plain": {"deployments": [{"provider": "gpu", "model": "base"}]},
        "stories": {"deployments": [{"provider": "gpu", "model": "base", "lora": lora}], **model},
    }
    return {"providers": {"gpu": provider}, "models": models}


def build(section: dict[str, Any]) -> None:
    """What `sage serve` does first with its configuration."""
    make_gateway(Settings.model_validate({"llm": section}))


def changes(up: Upstream) -> list[tuple[str, str]]:
    """The requests that load and unload adapters."""
    return [
        (request.path.split("/")[-1].split("_")[0], request.body["lora_name"])
        for request in up.requests
        if request.path.endswith("_lora_adapter")
    ]


@pytest.mark.proves("vllm", "LoRA", "load and unload")
def test_an_adapter_is_a_model_that_loads_and_unloads(
    up: Upstream, wire: VllmWire, running: Any, adapters: Path
) -> None:
    assert running.get("/models/stories").json()["state"] == "unloaded"
    loaded = running.post("/models/stories/load").json()
    assert loaded["state"] == "ready"
    assert wire.adapters == {"tales": str(adapters / "tales")}
    sent = next(request for request in up.requests if request.path == "/v1/load_lora_adapter")
    assert sent.body == {"lora_name": "tales", "lora_path": str(adapters / "tales")}
    assert sent.headers["authorization"] == "Bearer sk-upstream"
    answer = running.chat("stories").json()
    assert answer["model"] == "stories"
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert up.requests[-1].body["model"] == "tales"
    assert running.post("/models/stories/unload").json()["state"] == "unloaded"
    assert wire.adapters == {}
    assert changes(up) == [("load", "tales"), ("unload", "tales")]
    assert running.chat("plain").status_code == 200  # the base never moved


@pytest.mark.proves("vllm", "LoRA")
def test_a_request_loads_its_adapter(up: Upstream, running: Any) -> None:
    assert running.chat("stories").status_code == 200
    assert running.chat("stories").status_code == 200
    assert changes(up) == [("load", "tales")]


def test_an_adapter_that_the_server_has_already_is_not_loaded_again(up: Upstream, wire: VllmWire, running: Any) -> None:
    wire.adapters["tales"] = "/elsewhere/tales"
    assert running.post("/models/stories/load").json()["state"] == "ready"
    assert running.chat("stories").status_code == 200
    assert changes(up) == []


def test_an_adapter_unloads_when_it_has_been_idle(up: Upstream, adapters: Path, gateway: Callable) -> None:
    running = gateway(llm=llm(up, adapters, keep_alive=0.05))
    assert running.chat("stories").status_code == 200
    up.wait_requests(4)  # the list, load, chat, unload
    assert changes(up) == [("load", "tales"), ("unload", "tales")]


def test_a_server_without_adapters_is_a_clear_failure(up: Upstream, wire: VllmWire, running: Any) -> None:
    up.handler = VllmWire("base", lora=False)
    answer = running.chat("stories")
    assert answer.status_code == 503
    assert "--enable-lora" in answer.json()["error"]["message"]
    shown = running.get("/models/stories").json()
    assert shown["state"] == "failed"
    assert "'tales'" in shown["error"]["message"]
    up.handler = wire
    assert running.chat("stories").status_code == 200


def test_what_the_server_says_of_an_adapter_that_it_cannot_load_is_the_cause(up: Upstream, running: Any) -> None:
    def refuses(request: Received) -> Script:
        if request.path == "/v1/load_lora_adapter":
            return reply(
                {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16.", "code": 400}}, status=400
            )
        return VllmWire("base")(request)

    up.handler = refuses
    answer = running.chat("stories")
    assert answer.status_code == 503
    assert "LoRA rank 64 is greater than max_lora_rank 16." in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["..", "../outside", "tales/../../outside", ".hidden", "a\\b", "/etc", "a\nb"])
def test_only_a_plain_name_of_a_directory_names_an_adapter(name: str, up: Upstream, adapters: Path) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a directory"):
        build(llm(up, adapters, name))


@pytest.mark.parametrize("case", ["missing", "symlink", "no config"])
def test_what_is_no_adapter_in_the_directory_is_not_loaded(
    case: str, up: Upstream, adapters: Path, gateway: Callable
) -> None:
    if case == "symlink":
        (adapters / "other").symlink_to(adapters.parent / "outside")
    elif case == "no config":
        (adapters / "other").mkdir()
    running = gateway(llm=llm(up, adapters, "other"))
    answer = running.chat("stories")
    assert answer.status_code == 503
    assert "has no LoRA adapter 'other'" in answer.json()["error"]["message"]
    assert str(adapters) not in answer.text
    assert changes(up) == []


def test_adapters_at_run_time_come_from_the_one_directory(
    up: Upstream, wire: VllmWire, adapters: Path, running: Any
) -> None:
    def register(**deployment: Any) -> Any:
        wanted = {"provider": "gpu", "model": "base", **deployment}
        return running.post("/models/mine", {"deployments": [wanted]})

    (adapters / "link").symlink_to(adapters.parent / "outside")
    for name in ("../outside", "..", "link", "missing", ""):
        refused = register(lora=name)
        assert refused.status_code == 400, name
        assert "lora" in refused.json()["error"]["param"]
    assert register(lora="tales", path="/x").json()["error"]["code"] == "configured_only"
    assert register(lora="tales").status_code in (200, 201)
    assert running.chat("mine").status_code == 200
    assert wire.adapters == {"tales": str(adapters / "tales")}


def test_a_provider_that_takes_no_adapters_says_so(up: Upstream) -> None:
    providers = {"up0": {"kind": "openai", "base_url": up.url}}
    models = {"stories": {"deployments": [{"provider": "up0", "model": "base", "lora": "tales"}]}}
    with pytest.raises(InvalidRequest, match=r"'up0' \(openai\) takes no LoRA adapters"):
        build({"providers": providers, "models": models})


def test_an_adapter_without_a_directory_says_so(up: Upstream) -> None:
    providers = {"gpu": {"kind": "vllm", "base_url": up.url}}
    models = {"stories": {"deployments": [{"provider": "gpu", "model": "base", "lora": "tales"}]}}
    with pytest.raises(InvalidRequest, match="lora_dir"):
        build({"providers": providers, "models": models})


def test_an_adapter_that_the_server_has_lost_is_unhealthy(up: Upstream, wire: VllmWire, adapters: Path) -> None:
    async def scenario() -> list[int]:
        provider = VllmProvider("gpu", VllmSettings(base_url=up.url, lora_dir=adapters))
        transport = make_transport()
        adapter = LoraAdapter(provider, DeploymentSettings(provider="gpu", model="base", lora="tales"), None, transport)
        await adapter.start()
        seen = [await adapter.health(5)]
        wire.adapters.clear()  # the server was started anew
        seen.append(await adapter.health(5))
        await adapter.stop()
        await transport.close()
        return seen

    assert asyncio.run(scenario()) == [200, 404]


def test_a_server_that_hangs_does_not_keep_an_adapter_from_ending(up: Upstream, wire: VllmWire, adapters: Path) -> None:
    def hangs(request: Received) -> Script:
        return Script(end="hang") if request.path == "/v1/unload_lora_adapter" else wire(request)

    async def scenario() -> None:
        provider = VllmProvider("gpu", VllmSettings(base_url=up.url, lora_dir=adapters))
        transport = make_transport()
        wanted = DeploymentSettings(provider="gpu", model="base", lora="tales")
        adapter = LoraAdapter(provider, wanted, None, transport, patience=0.2)
        await adapter.start()
        up.handler = hangs
        await asyncio.wait_for(adapter.stop(), 20)  # not the 120 s of a request
        await transport.close()

    asyncio.run(scenario())
    assert changes(up) == [("load", "tales"), ("unload", "tales")]


# Sleep


@pytest.mark.proves("vllm", "load and unload")
def test_a_server_that_can_sleep_sleeps_and_wakes(up: Upstream, wire: VllmWire, running: Any) -> None:
    assert running.get("/models/plain").json()["state"] == "ready"
    assert running.post("/models/plain/unload").json()["state"] == "unloaded"
    assert wire.asleep
    assert "/sleep?level=1&mode=wait" in [request.path for request in up.requests]
    assert running.post("/models/plain/load").json()["state"] == "ready"
    assert not wire.asleep
    assert running.chat("plain").status_code == 200


def test_a_request_wakes_a_model_that_was_sent_to_sleep(up: Upstream, wire: VllmWire, running: Any) -> None:
    running.post("/models/plain/unload")
    assert wire.asleep
    assert running.chat("plain").status_code == 200
    assert not wire.asleep
    assert [request.path for request in up.requests if request.method == "POST"] == [
        "/sleep?level=1&mode=wait",
        "/wake_up",
        "/v1/chat/completions",
    ]


def test_a_server_that_cannot_sleep_is_not_unloaded(up: Upstream, running: Any) -> None:
    up.handler = VllmWire("base", sleep=False)
    refused = running.post("/models/plain/unload")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "not_managed"
    assert "cannot sleep" in refused.json()["error"]["message"]
    assert running.post("/models/plain/load").json()["state"] == "ready"
    assert running.chat("plain").status_code == 200


def test_loading_what_the_server_does_not_serve_is_a_404(up: Upstream, running: Any) -> None:
    answer = running.post("/models/gpu/other/load")
    assert answer.status_code == 404
    assert "does not serve 'other' but base" in answer.json()["error"]["message"]


@pytest.mark.proves("vllm", "pull", refused=True)
def test_pulling_is_refused(up: Upstream, running: Any) -> None:
    answer = running.post("/models/plain/pull")
    assert answer.status_code == 400
    assert "cannot pull" in answer.json()["error"]["message"]


def test_the_example_of_the_documentation_is_a_base_and_an_adapter_in_its_server() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.+?)```", text, re.DOTALL)
    settings = Settings.model_validate(yaml.safe_load(example))
    registry = make_gateway(settings).registry
    assert [finding for finding in check(settings, registry) if "falls back" in finding.text] == []
    [base], [adapter] = (registry.get(name).deployments for name in ("qwen", "qwen-sql"))
    assert (base.managed.name, adapter.managed.name) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B+sql")

    async def start() -> None:
        adapter.managed._start()  # an engine is made on the loop that runs it

    asyncio.run(start())
    assert base.managed.dependents == {adapter.managed}


# What nothing serves


def test_a_model_without_a_server_is_a_clear_fault() -> None:
    models = {
        "managed": {"deployments": [{"provider": "vllm", "model": "a", "engine": {"args": []}}]},
        "plain": {"deployments": [{"provider": "vllm", "model": "b"}]},
    }
    with pytest.raises(NotFound, match=r"nothing serves 'b' of the provider 'vllm'.*'engine'.*base_url"):
        build({"models": models, "providers": {"vllm": {}}})


@pytest.mark.parametrize("argument", ["--api-key", "--port=80", "--host", "--uds", "--served-model-name"])
def test_arguments_that_are_the_gateways_are_refused(argument: str) -> None:
    models = {"m": {"deployments": [{"provider": "vllm", "model": "a", "engine": {"args": [argument, "x"]}}]}}
    with pytest.raises(ConfigError, match="is the gateway's to set"):
        build({"models": models, "providers": {"vllm": {}}})
