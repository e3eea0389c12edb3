"""How a model's name is looked up, and what `/models` tells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from upstream import Upstream

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


def provider(up: Upstream, **options) -> dict:
    return {"kind": "openai", "base_url": up.url, "api_key": "k", **options}


def listing(up: Upstream, *names: str) -> None:
    answer = {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
    usual = up.handler

    def handler(request):
        from upstream import reply

        return reply(answer) if request.path == "/v1/models" else usual(request)

    up.handler = handler


def test_provider_slash_model_needs_no_registration(ups: Callable, gateway: Callable) -> None:
    up = ups()
    running = gateway(llm={"providers": {"east": provider(up)}})
    answer = running.chat("east/org/model-7b")
    assert answer.json()["model"] == "east/org/model-7b"
    assert up.requests[0].body["model"] == "org/model-7b"
    assert 'sage_requests_total{model="east/*",status="200"} 1.0' in running.get("/metrics").text


def test_models_may_be_named_in_any_script(ups: Callable, gateway: Callable) -> None:
    running = gateway(llm={"providers": {"east": provider(ups())}})
    for stream in (False, True):
        answer = running.chat("east/通义 千问", stream=stream)
        assert answer.status_code == 200
        assert answer.headers["x-sage-deployment"] == "east/%E9%80%9A%E4%B9%89 %E5%8D%83%E9%97%AE"
    assert running.get("/models/east/通义 千问").json()["name"] == "east/通义 千问"
    broken = running.chat("east/a\r\nx-evil: 1")
    assert "x-evil" not in broken.headers


@pytest.mark.parametrize("name", ["gpt-4o-mini", "o3", "o1-preview", "text-embedding-3-small", "gpt-3.5-turbo"])
def test_a_known_family_goes_to_its_vendor(ups: Callable, gateway: Callable, name: str) -> None:
    up, other = ups(), ups()
    listing(other, name)
    running = gateway(llm={"providers": {"openai": {"base_url": up.url}, "east": provider(other)}})
    assert running.chat(name).headers["x-sage-deployment"] == f"openai/{name}"
    assert other.requests == []


def test_a_family_whose_vendor_is_not_configured_says_so(gateway: Callable) -> None:
    answer = gateway().chat("gpt-3.5-turbo")
    assert answer.status_code == 404
    assert "OPENAI_API_KEY" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "says"), [("openai/gpt-4o", "OPENAI_API_KEY"), ("ollama/llama3", "OLLAMA_HOST"), ("zhipu/glm-4", "zhipu")]
)
def test_a_model_of_an_unconfigured_provider_says_what_to_set(gateway: Callable, name: str, says: str) -> None:
    answer = gateway().chat(name)
    assert answer.status_code == 404
    assert says in answer.json()["error"]["message"]


def test_a_model_whose_package_is_not_installed_names_the_extra(gateway: Callable) -> None:
    absent = {"package": "no-such-package-gguf"}
    answer = gateway(llm={"providers": {"local": {"models": {"mine": absent}}}}).chat("mine")
    assert answer.status_code == 503
    assert "intellistream-sage-middleware[local]" in answer.json()["error"]["message"]


def test_the_one_provider_that_lists_a_model_answers_for_it(ups: Callable, gateway: Callable) -> None:
    east, west = ups(), ups()
    listing(east, "alpha", "both")
    listing(west, "beta", "both")
    running = gateway(llm={"providers": {"east": provider(east), "west": provider(west)}})
    assert running.chat("alpha").headers["x-sage-deployment"] == "east/alpha"
    assert running.chat("beta").headers["x-sage-deployment"] == "west/beta"
    both = running.chat("both")
    assert both.status_code == 400
    assert "east/both, west/both" in both.json()["error"]["message"]
    none = running.chat("gamma")
    assert none.status_code == 404
    assert none.json()["error"]["code"] == "model_not_found"
    assert "east, local, west" in none.json()["error"]["message"]
    # Asked once: a listing is good for a minute.
    assert [request.path for request in east.requests].count("/v1/models") == 1


def test_a_listed_name_may_begin_with_a_preset_that_is_not_configured(ups: Callable, gateway: Callable) -> None:
    """Servers for the models of many vendors have such names; ``openai/…`` is reserved for the vendor itself."""
    east = ups()
    listing(east, "deepseek/deepseek-chat", "openai/gpt-4o", "anthropic/claude-sonnet-4.5", "gemini/gemini-2.5-pro")
    running = gateway(llm={"providers": {"east": provider(east)}})
    for name in ("deepseek/deepseek-chat", "anthropic/claude-sonnet-4.5", "gemini/gemini-2.5-pro"):
        assert running.chat(name).headers["x-sage-deployment"] == f"east/{name}"
    missing = running.chat("deepseek/other")
    assert missing.status_code == 404
    assert "DEEPSEEK_API_KEY" in missing.json()["error"]["message"]
    assert running.chat("openai/gpt-4o").status_code == 404


def test_a_provider_that_is_down_lists_nothing(ups: Callable, gateway: Callable) -> None:
    east = ups()
    listing(east, "alpha")
    down = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}
    running = gateway(llm={"providers": {"east": provider(east), "down": down}})
    assert running.chat("alpha").status_code == 200


@pytest.mark.slow
def test_weights_and_priorities(ups: Callable, gateway: Callable) -> None:
    heavy, light, spare = ups(), ups(), ups()
    deployments = [
        {"provider": "heavy", "model": "m", "weight": 9},
        {"provider": "light", "model": "m", "weight": 1},
        {"provider": "spare", "model": "m", "priority": 1, "weight": 100},
    ]
    providers = {"heavy": provider(heavy), "light": provider(light), "spare": provider(spare)}
    running = gateway(llm={"providers": providers, "models": {"bench": {"deployments": deployments}}})
    for _ in range(100):
        assert running.chat().status_code == 200
    assert len(heavy.requests) + len(light.requests) == 100
    assert 2 < len(light.requests) < 30
    heavy.reply(status=500)
    light.reply(status=500)
    answer = running.chat()
    assert answer.headers["x-sage-deployment"] == "spare/m"
    assert answer.headers["x-sage-attempts"] == "3"


def test_a_provider_at_its_bound_refuses_at_once_where_nobody_may_wait(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate)
    models = {"bench": {"deployments": [{"provider": "east", "model": "m"}]}}
    routing = {"queue_size": 0}
    running = gateway(
        llm={"providers": {"east": provider(up, max_concurrency=2)}, "models": models, "routing": routing}
    )
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(running.chat) for _ in range(2)]
        up.wait_requests(2)
        shown = running.get("/models/bench").json()
        assert shown["in_flight"] == 2
        third = running.chat()
        assert third.status_code == 503
        assert third.headers["retry-after"] == "1"
        assert "max_concurrency" in third.json()["error"]["message"]
        gate.set()
        assert [future.result().status_code for future in first] == [200, 200]
    assert running.get("/models/bench").json()["in_flight"] == 0
    assert running.chat().status_code == 200


@pytest.mark.slow
def test_a_models_limits_of_time_narrow_the_providers(ups: Callable, gateway: Callable) -> None:
    up = ups()
    up.hang()
    models = {"bench": {"deployments": [{"provider": "east", "model": "m"}], "timeouts": {"first_byte": "200ms"}}}
    running = gateway(llm={"providers": {"east": provider(up)}, "models": models})
    answer = running.chat(stream=True)
    assert answer.status_code == 504
    assert "first byte 0.2 s" in answer.json()["error"]["message"]


def test_a_model_whose_provider_cannot_serve_says_why(gateway: Callable) -> None:
    models = {"bench": {"deployments": [{"provider": "zhipu", "model": "glm-4"}]}}
    running = gateway(llm={"providers": {"zhipu": {}}, "models": models})
    answer = running.chat()
    assert answer.status_code == 503
    assert "'zhipu' cannot serve" in answer.json()["error"]["message"]
    shown = running.get("/models/bench").json()
    assert shown["state"] == "failed"
    assert "zhipu" in shown["error"]["message"]
    assert "zhipu" in running.get("/ready").json()["cannot_serve"]


def test_a_key_sees_only_the_models_it_reaches(ups: Callable, upstreams: Callable) -> None:
    running = upstreams(ups(), ups())
    key = running.new_key(models=["bench1"])
    assert [model["name"] for model in running.get("/models", key=key).json()["models"]] == ["bench1"]
    assert [model["id"] for model in running.get("/v1/models", key=key).json()["data"]] == ["bench1"]
    for path in ("/models/bench", "/v1/models/bench"):
        assert running.get(path, key=key).status_code == 404
    assert running.chat("bench", key=key).status_code == 403
    # Another way to the same deployment is another name, which the pattern does not match either.
    assert running.chat("up0/theirs-0", key=key).status_code == 403


def test_load_and_unload_are_refused_for_models_that_run_elsewhere(ups: Callable, upstreams: Callable) -> None:
    running = upstreams(ups())
    answer = running.post("/models/bench/load")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "not_managed"
    assert running.post("/models/nothing/load").status_code == 404


def test_a_model_narrows_its_providers_bounds(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate)
    deployments = [{"provider": "east", "model": "m"}]
    models = {"bench": {"deployments": deployments, "max_concurrency": 1}}
    running = gateway(
        llm={"providers": {"east": provider(up)}, "models": models, "routing": {"queue_timeout": "100ms"}}
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.chat)
        up.wait_requests(1)
        assert running.chat().status_code == 503
        gate.set()
        assert first.result().status_code == 200


def test_a_models_retries_bound_its_attempts(ups: Callable, gateway: Callable) -> None:
    upstream_servers = [ups(), ups()]
    for up in upstream_servers:
        up.reply(status=500)
    deployments = [{"provider": f"p{number}", "model": "m"} for number in range(2)]
    providers = {f"p{number}": provider(up) for number, up in enumerate(upstream_servers)}
    models = {"bench": {"deployments": deployments, "retries": 0}}
    assert gateway(llm={"providers": providers, "models": models}).chat().status_code == 502
    assert sum(len(up.requests) for up in upstream_servers) == 1


def test_limits_can_only_be_narrowed() -> None:
    models = {"bench": {"deployments": [{"provider": "openai", "model": "m"}], "timeouts": {"total": "20m"}}}
    with pytest.raises(ValueError, match="can only narrow"):
        Settings.model_validate({"llm": {"providers": {"openai": {"api_key": "k"}}, "models": models}})


def test_a_server_whose_program_is_not_there_says_so(gateway: Callable) -> None:
    qwen = {"provider": "vllm", "model": "Qwen/Qwen3-0.6B", "engine": {"args": ["--max-model-len", "4096"]}}
    providers = {"vllm": {"base_url": "http://localhost:8001/v1"}}
    answer = gateway(llm={"providers": providers, "models": {"qwen": {"deployments": [qwen]}}}).chat("qwen")
    assert answer.status_code == 503
    assert "the program 'vllm' cannot be started" in answer.json()["error"]["message"]
