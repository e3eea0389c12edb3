"""`sage import litellm`: LiteLLM's configuration becomes ours, which the check passes and the gateway serves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from sage_process import environment, sage, serving
from upstream import Upstream

from sage.errors import ConfigError
from sage.middleware.cli.litellm.conversion import Conversion
from sage.middleware.cli.litellm.source import read_litellm
from sage.middleware.settings.settings import Settings

Convert = Callable[[str], Conversion]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    def call(text: str) -> Conversion:
        file = tmp_path / "litellm.yaml"
        file.write_text(text)
        conversion = Conversion(read_litellm(file))
        assert Settings.model_validate(yaml.safe_load(yaml.safe_dump(conversion.result).replace("${", "http://")))
        return conversion

    return call


def llm_of(conversion: Conversion) -> dict[str, Any]:
    return dict(conversion.result["llm"])


def one(params: str, name: str = "m") -> str:
    return f"model_list: [{{model_name: {name}, litellm_params: {{{params}}}}}]"


@pytest.mark.parametrize(
    ("params", "provider", "section", "model"),
    [
        ("model: gpt-4o", "openai", {"api_key": "${OPENAI_API_KEY:-}"}, "gpt-4o"),
        ("model: openai/gpt-4o, api_key: os.environ/MINE, organization: org-1", "openai",
         {"api_key": "${MINE:-}", "organization": "org-1"}, "gpt-4o"),
        ("model: openai/qwen, api_base: 'http://10.0.0.5:8000/v1/', api_key: sk-x", "10-0-0-5-8000",
         {"kind": "openai", "base_url": "http://10.0.0.5:8000/v1", "api_key": "sk-x"}, "qwen"),
        ("model: Qwen/Qwen3, custom_llm_provider: openai, api_base: 'https://east.example/v1'", "east-example",
         {"kind": "openai", "base_url": "https://east.example/v1", "api_key": "${OPENAI_API_KEY:-}"}, "Qwen/Qwen3"),
        ("model: openai/x, api_base: os.environ/EAST_URL, api_key: os.environ/EAST_KEY", "east-url",
         {"kind": "openai", "base_url": "${EAST_URL}", "api_key": "${EAST_KEY:-}"}, "x"),
        ("model: azure/gpt4, api_base: 'https://a.openai.azure.com/', api_version: '2024-02-01', "
         "api_key: os.environ/AZ", "azure",
         {"kind": "openai", "headers": {"api-key": "${AZ:-}"},
          "base_url": "https://a.openai.azure.com/openai/deployments/gpt4?api-version=2024-02-01"}, "gpt4"),
        ("model: hosted_vllm/Qwen/Qwen3-8B, api_base: 'http://gpu:8000/v1'", "vllm",
         {"base_url": "http://gpu:8000/v1"}, "Qwen/Qwen3-8B"),
        ("model: 'ollama_chat/llama3:8b'", "ollama", {"base_url": "http://localhost:11434"}, "llama3:8b"),
        ("model: ollama/qwen, api_base: 'http://o:11434/v1'", "ollama", {"base_url": "http://o:11434"}, "qwen"),
        ("model: deepseek/deepseek-chat", "deepseek", {"api_key": "${DEEPSEEK_API_KEY:-}"}, "deepseek-chat"),
        ("model: command-r-plus", "cohere", {"api_key": "${COHERE_API_KEY:-}"}, "command-r-plus"),
        ("model: zai/glm-4.6", "zhipu", {"api_key": "${ZAI_API_KEY:-}"}, "glm-4.6"),
        ("model: mistral/mistral-large-latest", "mistral",
         {"api_key": "${MISTRAL_API_KEY:-}"},
         "mistral-large-latest"),
        ("model: claude-sonnet-4, extra_headers: {anthropic-beta: os.environ/BETA}", "anthropic",
         {"api_key": "${ANTHROPIC_API_KEY:-}",
          "headers": {"anthropic-beta": "${BETA:-}"}}, "claude-sonnet-4"),
        ("model: gemini/gemini-2.5-flash", "gemini", {"api_key": "${GEMINI_API_KEY:-}"}, "gemini-2.5-flash"),
        ("model: together_ai/meta-llama/Llama-3", "together",
         {"api_key": "${TOGETHERAI_API_KEY:-}"},
         "meta-llama/Llama-3"),
    ],
)  # fmt: skip
def test_a_deployment_gets_its_provider(
    convert: Convert, params: str, provider: str, section: dict[str, Any], model: str
) -> None:
    conversion = convert(one(params))
    assert llm_of(conversion)["providers"] == {provider: section}
    assert conversion.models == {"m": {"deployments": [{"provider": provider, "model": model}]}}
    assert conversion.report.left_out == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (one("model: bedrock/anthropic.claude, aws_region_name: x"), "SAGE has no provider for 'bedrock'"),
        (one("model: some-model"), "its provider cannot be told from its name"),
        (one("model: hosted_vllm/x"), "it has no api_base"),
        (one("model: azure/, api_base: 'https://a'"), "it names no model"),
        (one("model: openai/x, api_base: 'http://[::1'"), "api_base is not an http:// or https:// address"),
        (one("model: openai/x, api_base: 'http://n:secret@h/v1'"), "api_base must hold no name and password"),
        (one("model: gpt-4o, mock_response: hi, temperature: 0"), "no counterpart of mock_response, temperature"),
        (one("model: 'anthropic/*'", "'anthropic/*'"), "ask for anthropic/MODEL, which needs no entry"),
        (one("model: gpt-4o, max_retries: 9"), "num_retries: there are at most 2 further attempts"),
        ("model_list: [5, {model_name: a}]", "model_list[0]: it has no model_name, or no litellm_params.model"),
        ("model_list: [{model_name: d, litellm_params: {model: dall-e-3}, model_info: {mode: image_generation}}]",
         "SAGE has no models of the mode image_generation"),
        ("model_list: []\ngeneral_settings: {master_key: sk-1, database_url: x}", "master_key: make an administrator"),
        ("model_list: []\ngeneral_settings: {master_key: sk-1, database_url: x}", "no counterpart of database_url"),
        ("model_list: []\nenvironment_variables: {A_KEY: secret}", "set them where 'sage serve' runs: A_KEY"),
        ("model_list: []\nlitellm_settings: {callbacks: [x], cache: true}", "no counterpart of cache, callbacks"),
        ("model_list: []\nrouter_settings: {routing_strategy: least-busy}", "no counterpart of routing_strategy"),
        ("model_list: []\nguardrails: []", "the file: there is no counterpart of guardrails"),
        (one("model: gpt-4o") + "\nrouter_settings: {fallbacks: [{m: [gone]}]}", "its fallback 'gone' is no model of"),
        (one("model: gpt-4o") + "\nrouter_settings: {model_group_alias: {a: gone}}", "there is no model 'gone'"),
    ],
)  # fmt: skip
def test_what_is_not_carried_over_is_said(convert: Convert, text: str, line: str) -> None:
    left_out = convert(text).report.left_out
    assert any(line in said for said in left_out), left_out
    assert not any("sk-1" in said or "secret" in said for said in left_out)


def test_several_deployments_share_providers_and_keep_their_weights(convert: Convert) -> None:
    conversion = convert("""
model_list:
  - {model_name: chat, litellm_params: {model: openai/a, api_key: os.environ/K1, weight: 3}}
  - {model_name: chat, litellm_params: {model: openai/a, api_key: os.environ/K2, weight: 1, order: 2}}
  - {model_name: chat, litellm_params: {model: openai/b, api_key: os.environ/K1, weight: 2}}
  - {model_name: shared, litellm_params: {model: gpt-4o, api_key: os.environ/K1, rpm: 10}}
  - {model_name: shared, litellm_params: {model: gpt-4o, api_key: os.environ/K2, rpm: 30}}
""")
    assert conversion.models == {
        "chat": {
            "deployments": [
                {"provider": "openai", "model": "a", "weight": 3},
                {"provider": "openai-2", "model": "a", "weight": 1, "priority": 2},
                {"provider": "openai", "model": "b", "weight": 2},
            ]
        },
        "shared": {
            "deployments": [
                {"provider": "openai", "model": "gpt-4o", "weight": 10},
                {"provider": "openai-2", "model": "gpt-4o", "weight": 30},
            ],
            "limits": {"rpm": 40},
        },
    }
    assert llm_of(conversion)["providers"]["openai-2"] == {"kind": "openai", "api_key": "${K2:-}"}


def test_prices_limits_and_budgets(convert: Convert) -> None:
    conversion = convert("""
model_list:
  - model_name: chat
    litellm_params: {model: openai/a, api_key: os.environ/K1, input_cost_per_token: 0.0000025, tpm: 90000, rpm: 60,
      output_cost_per_token: 1e-05, max_budget: 12.5, budget_duration: 30d}
    model_info: {cache_read_input_token_cost: 0.00000125}
  - {model_name: odd, litellm_params: {model: openai/b, rpm: 5, max_budget: 1, budget_duration: 5m}}
  - model_name: odd
    litellm_params: {model: openai/c, input_cost_per_second: 0.0002, input_cost_per_audio_token: 0.00004}
""")
    assert conversion.models["chat"] == {
        "deployments": [{"provider": "openai", "model": "a", "price": {"input": 2.5, "cached": 1.25, "output": 10}}],
        "limits": {"rpm": 60, "tpm": 90000},
        "budget": {"usd": 12.5, "window": "month"},
    }
    assert conversion.models["odd"] == {
        "deployments": [
            {"provider": "openai-2", "model": "b"},
            {"provider": "openai-2", "model": "c", "price": {"audio": 40, "per_second": 0.0002}},
        ]
    }
    assert conversion.report.left_out == [
        "model 'odd': rpm, since not all its deployments have one",
        "model 'odd': max_budget, since a budget is of a day, week, month or in all",
    ]


def test_router_and_library_settings(convert: Convert) -> None:
    conversion = convert("""
model_list:
  - {model_name: a, litellm_params: {model: gpt-4o, max_parallel_requests: 5}}
  - {model_name: b, litellm_params: {model: gpt-4o, timeout: 1200, num_retries: 0}}
  - {model_name: c, litellm_params: {litellm_credential_name: mine, model: openai/c}}
litellm_settings: {drop_params: true, request_timeout: 600, default_fallbacks: [c], fallbacks: [{a: [b, c]}]}
router_settings: {num_retries: 1, timeout: 30, allowed_fails: 2, cooldown_time: 60, model_group_alias: {d: {model: a}}}
credential_list: [{credential_name: mine, credential_values: {api_key: os.environ/MINE, api_base: 'http://h/v1'}}]
""")
    a, b, c, d = (conversion.models[name] for name in "abcd")
    assert (a["fallbacks"], b["fallbacks"], d["fallbacks"]) == (["b", "c"], ["c"], ["c"])
    assert "fallbacks" not in c
    assert (c["retries"], a["timeouts"], a["max_concurrency"]) == (1, {"total": 30}, 5)
    assert "retries" not in {**a, **b}  # they would be the end of the fallbacks
    assert a["drop_unsupported"] is True
    assert a["deployments"] == d["deployments"]
    assert c["deployments"] == [{"provider": "h", "model": "c"}]
    assert llm_of(conversion)["providers"]["openai"]["timeouts"] == {"total": 1200}
    assert llm_of(conversion)["providers"]["h"]["api_key"] == "${MINE:-}"
    assert llm_of(conversion)["routing"] == {"breaker_failures": 3, "breaker_pause": 60}


def test_included_files_are_read_too(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(one("model: gpt-4o", "more"))
    assert convert("include: [more.yaml]\n" + one("model: gpt-4o")).models.keys() == {"m", "more"}


@pytest.mark.parametrize("text", ["", "llm: {}", "[1]", "model_list: {}", "a: [", "model_list: 2024-99-99"])
def test_what_is_not_litellms_is_refused(convert: Convert, text: str) -> None:
    with pytest.raises(ConfigError, match=r"litellm\.yaml: "):
        convert(text)


@pytest.mark.slow
def test_the_result_is_checked_served_and_never_overwrites(tmp_path: Path) -> None:
    with Upstream() as up:
        up.reply(status=500, times=1)
        (tmp_path / "config.yaml").write_text(f"""
model_list:
  - {{model_name: main, litellm_params: {{model: openai/big, api_base: "{up.url}", api_key: os.environ/UP_KEY}}}}
  - {{model_name: spare, litellm_params: {{model: gemma-3-270m, custom_llm_provider: nowhere}}}}
  - {{model_name: spare, litellm_params: {{model: openai/small, api_base: "{up.url}", api_key: os.environ/UP_KEY}}}}
router_settings: {{fallbacks: [{{main: [spare]}}], num_retries: 0}}
general_settings: {{master_key: sk-secret}}
""")
        env = environment(tmp_path / "data", UP_KEY="key-of-up")
        refused = sage(["import", "litellm", "config.yaml"], env, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr == "sage: config.yaml is the file to convert; name another one with --output\n"
        done = sage(["import", "litellm", "config.yaml", "--output", "sage.yaml"], env, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("sage.yaml written: 2 models, 1 providers\n")
        assert "not carried over: model 'spare' (gemma-3-270m): SAGE has no provider for 'nowhere'\n" in done.stdout
        text = (tmp_path / "sage.yaml").read_text()
        assert "sk-secret" not in text
        assert "key-of-up" not in text
        again = sage(["import", "litellm", "config.yaml", "-o", "sage.yaml"], env, cwd=tmp_path)
        assert again.returncode == 1
        assert "sage.yaml exists already" in again.stderr
        assert (
            sage(["import", "litellm", "config.yaml", "-o", "sage.yaml", "--force"], env, cwd=tmp_path).returncode == 0
        )
        assert sage(["import", "litellm", "config.yaml", "-o", "-"], env, cwd=tmp_path).stdout == text
        checked = sage(["config", "check", "--strict", "--config", "sage.yaml"], env, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
        with serving(["--config", "sage.yaml", "--port", "0", "--no-auth"], env, tmp_path) as running:
            body = {"model": "main", "messages": [{"role": "user", "content": "hello"}]}
            answer = requests.post(f"{running.url}/v1/chat/completions", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
        assert [request.body["model"] for request in up.requests] == ["big", "small"]
        assert up.requests[0].headers["authorization"] == "Bearer key-of-up"


@pytest.mark.slow
def test_a_file_with_keys_is_private(tmp_path: Path) -> None:
    (tmp_path / "litellm.yaml").write_text(one("model: gpt-4o, api_key: sk-plain"))
    done = sage(["import", "litellm", "litellm.yaml"], environment(tmp_path / "data"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "keys in plain text" in done.stdout
    assert "sk-plain" not in done.stdout
    assert os.stat(tmp_path / "config.yaml").st_mode & 0o777 == 0o600
    missing = sage(["import", "litellm", "gone.yaml"], environment(tmp_path / "data"), cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("sage: gone.yaml: cannot be read")
