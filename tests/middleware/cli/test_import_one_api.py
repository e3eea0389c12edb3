"""`sage import one-api` and `new-api`: channels become a configuration that the check passes; keys stay private."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from sage_process import environment, sage

from sage.errors import ConfigError
from sage.middleware.cli.one_api.channel_types import NEW_API, ONE_API
from sage.middleware.cli.one_api.source import OneApiData, read_one_api
from sage.middleware.cli.one_api.translation import ChannelTranslation

_CHANNELS = (
    "CREATE TABLE channels (id integer PRIMARY KEY AUTOINCREMENT, type integer DEFAULT 0, key text, "
    "status integer DEFAULT 1, name text, weight integer DEFAULT 0, created_time bigint, test_time bigint, "
    "response_time integer, base_url text DEFAULT '', other text, balance real, balance_updated_time bigint, "
    "models text, `group` varchar(32) DEFAULT 'default', used_quota bigint DEFAULT 0, "
    "model_mapping varchar(1024) DEFAULT '', priority bigint DEFAULT 0, config text, system_prompt text)"
)
_TOKENS = (
    "CREATE TABLE tokens (id integer PRIMARY KEY AUTOINCREMENT, user_id integer, key char(48), status integer "
    "DEFAULT 1, name text, created_time bigint, accessed_time bigint, expired_time bigint DEFAULT -1, "
    "remain_quota bigint DEFAULT 0, unlimited_quota numeric DEFAULT false, used_quota bigint DEFAULT 0, models text, "
    "subnet text)"
)
_USERS = "CREATE TABLE users (id integer PRIMARY KEY AUTOINCREMENT, username text, password text, role integer)"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """As one-api's tables are, with rows of a small team."""
    path = tmp_path / "one-api.db"
    channels: list[dict[str, Any]] = [
        {"type": 1, "key": "sk-openai-1\nsk-openai-2", "name": "OpenAI 主", "models": "gpt-4o,gpt-4o-mini",
         "priority": 10},
        {"type": 3, "key": "az-key", "name": "azure", "models": "gpt-4o", "base_url": "https://a.openai.azure.com",
         "config": '{"api_version": "2024-06-01"}', "model_mapping": '{"gpt-4o": "east-4o"}'},
        {"type": 36, "key": "sk-ds", "name": "deepseek", "models": "deepseek-chat", "weight": 3},
        {"type": 8, "key": "sk-own", "name": "自建", "models": "qwen3", "base_url": "http://10.0.0.9:8000",
         "group": "vip"},
        {"type": 18, "key": "xf", "name": "讯飞", "models": "spark"},
        {"type": 29, "key": "gsk", "name": "groq", "models": "llama-3.3-70b-versatile", "status": 2},
        {"type": 30, "key": "", "name": "ollama", "models": "gemma3", "base_url": "http://gpu:11434"},
    ]  # fmt: skip
    with closing(sqlite3.connect(path)) as raw:
        for statement in (_CHANNELS, _TOKENS, _USERS):
            raw.execute(statement)
        for channel in channels:
            names = ", ".join(f"`{name}`" for name in channel)
            raw.execute(
                f"INSERT INTO channels ({names}) VALUES ({', '.join('?' * len(channel))})", tuple(channel.values())
            )
        raw.execute("INSERT INTO users VALUES (1, 'root', 'x', 100), (2, 'ann', 'x', 1)")
        token = (2, "tk", "笔记本", 6250000, "gpt-4o")
        raw.execute("INSERT INTO tokens (user_id, key, name, remain_quota, models) VALUES (?, ?, ?, ?, ?)", token)
        raw.commit()
    return path


def test_a_database_becomes_a_configuration_that_holds(database: Path, tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    done = sage(["import", "one-api", str(database), "-o", "sage.yaml"], env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = tmp_path / "sage.yaml.env"
    assert stat.S_IMODE(values.stat().st_mode) == 0o600
    assert "CHANNEL_1_OPENAI_KEY_2=sk-openai-2" in values.read_text().splitlines()
    text = (tmp_path / "sage.yaml").read_text()
    for secret in ("sk-openai-1", "az-key", "sk-ds", "sk-own", "tk"):
        assert secret not in done.stdout + done.stderr
        assert f" {secret}" not in text
    llm = yaml.safe_load(text)["llm"]
    assert set(llm["models"]) == {"gpt-4o", "gpt-4o-mini", "deepseek-chat", "qwen3", "gemma3"}
    first, second, azure = llm["models"]["gpt-4o"]["deployments"]
    assert [first["model"], second["model"], azure["model"]] == ["gpt-4o", "gpt-4o", "east-4o"]
    assert ("priority" in first, "priority" in second, azure["priority"]) == (False, False, 10)
    providers = llm["providers"]
    assert providers[first["provider"]]["api_key"] == "${CHANNEL_1_OPENAI_KEY_1:-}"
    assert providers[azure["provider"]]["base_url"] == (
        "https://a.openai.azure.com/openai/deployments/east-4o?api-version=2024-06-01"
    )
    own = providers[llm["models"]["qwen3"]["deployments"][0]["provider"]]
    assert (own["kind"], own["base_url"]) == ("openai", "http://10.0.0.9:8000/v1")
    assert providers["ollama"]["base_url"] == "http://gpu:11434"
    assert providers["deepseek"] == {"api_key": "${CHANNEL_3_DEEPSEEK_KEY:-}"}
    for line in (
        "channel 5 '讯飞': SAGE has no provider for the channel type 18",
        "channel 6 'groq': it is switched off",
        "channel 4 '自建': its groups vip: who reaches a model is said by teams and keys (models)",
        "user 'root': make it: sage user add root --role admin",
        "token '笔记本': make a key: sage key add --user ann --name '笔记本' --model gpt-4o; it has 12.50 USD left",
    ):
        assert line in done.stdout
    assert sage(["config", "check", "--config", "sage.yaml"], env, cwd=tmp_path).returncode == 0
    again = sage(["import", "one-api", str(database), "-o", "sage.yaml"], env, cwd=tmp_path)
    assert again.returncode == 1


def channel(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "name": "c", "key": "k", "models": "m", "status": 1, **fields}


@pytest.mark.parametrize(
    ("types", "number", "base_url", "expected"),
    [
        (ONE_API, 28, "", {"kind": "mistral"}),
        (NEW_API, 42, "", {"kind": "mistral"}),
        (ONE_API, 25, "", {"kind": "moonshot", "base_url": "https://api.moonshot.cn/v1"}),
        (ONE_API, 27, "", {"kind": "minimax", "base_url": "https://api.minimax.chat/v1"}),
        (ONE_API, 32, "", {"kind": "stepfun"}),
        (ONE_API, 45, "", {"kind": "xai"}),
        (NEW_API, 4, "http://h:11434/", {"kind": "ollama", "base_url": "http://h:11434"}),
        (ONE_API, 17, "", {"kind": "dashscope"}),
        (NEW_API, 17, "https://proxy.example", {"kind": "dashscope", "base_url": "https://proxy.example/compatible-mode/v1"}),
        (NEW_API, 8, "https://own.example/v1/chat/completions", {"kind": "openai", "base_url": "https://own.example/v1"}),
        (NEW_API, 26, "", {"kind": "zhipu"}),
        (ONE_API, 26, "", {"kind": "openai", "base_url": "https://api.baichuan-ai.com/v1"}),
        (NEW_API, 45, "", {"kind": "volcengine"}),
        (ONE_API, 14, "", {"kind": "anthropic"}),
        (NEW_API, 14, "https://proxy.example", {"kind": "anthropic", "base_url": "https://proxy.example/v1"}),
        (NEW_API, 24, "", {"kind": "gemini"}),
        (ONE_API, 24, "https://proxy.example/", {"kind": "gemini", "base_url": "https://proxy.example/v1beta"}),
        (ONE_API, 51, "", {"kind": "openai", "base_url": "https://generativelanguage.googleapis.com/v1beta/openai"}),
    ],
)  # fmt: skip
def test_types_are_numbered_by_each_program(types: Any, number: int, base_url: str, expected: dict[str, str]) -> None:
    data = OneApiData([channel(type=number, base_url=base_url)])
    conversion = ChannelTranslation(data, types).convert()
    ((name, section),) = conversion.result["llm"]["providers"].items()
    section = {"kind": name, **section}
    assert section.pop("api_key") == "${CHANNEL_1_C_KEY:-}"
    assert section == expected


# songquanpeng/one-api relay/channeltype/define.go at bff2932, in its order from 0; from XAI on Laisky/one-api's at
# 00723d4.
ONE_API_NAMES = """
Unknown OpenAI API2D Azure CloseAI OpenAISB OpenAIMax OhMyGPT Custom Ails AIProxy PaLM API2GPT AIGC2D Anthropic Baidu
Zhipu Ali Xunfei AI360 OpenRouter AIProxyLibrary FastGPT Tencent Gemini Moonshot Baichuan Minimax Mistral Groq Ollama
LingYiWanWu StepFun AwsClaude Coze Cohere DeepSeek Cloudflare DeepL TogetherAI Doubao Novita VertextAI Proxy
SiliconFlow XAI Replicate BaiduV2 XunfeiV2 AliBailian OpenAICompatible GeminiOpenAICompatible
"""
# QuantumNous/new-api constant/channel.go at 016c88c, what follows ChannelType.
NEW_API_NAMES = {
    **{0: "Unknown", 1: "OpenAI", 2: "Midjourney", 3: "Azure", 4: "Ollama", 5: "MidjourneyPlus", 6: "OpenAIMax"},
    **{7: "OhMyGPT", 8: "Custom", 9: "AILS", 10: "AIProxy", 11: "PaLM", 12: "API2GPT", 13: "AIGC2D", 14: "Anthropic"},
    **{15: "Baidu", 16: "Zhipu", 17: "Ali", 18: "Xunfei", 19: "360", 20: "OpenRouter", 21: "AIProxyLibrary"},
    **{22: "FastGPT", 23: "Tencent", 24: "Gemini", 25: "Moonshot", 26: "Zhipu_v4", 27: "Perplexity"},
    **{31: "LingYiWanWu", 33: "Aws", 34: "Cohere", 35: "MiniMax", 36: "SunoAPI", 37: "Dify", 38: "Jina"},
    **{39: "Cloudflare", 40: "SiliconFlow", 41: "VertexAi", 42: "Mistral", 43: "DeepSeek", 44: "MokaAI"},
    **{45: "VolcEngine", 46: "BaiduV2", 47: "Xinference", 48: "Xai", 49: "Coze", 50: "Kling", 51: "Jimeng"},
    **{52: "Vidu", 53: "Submodel", 54: "DoubaoVideo", 55: "Sora", 56: "Replicate", 57: "Codex"},
}
# The default addresses of both, from url.go and channel.go, by those names in small letters.
ADDRESSES = {
    "api2d": "https://oa.api2d.net", "closeai": "https://api.closeai-proxy.xyz", "openaisb": "https://api.openai-sb.com",
    "openaimax": "https://api.openaimax.com", "ohmygpt": "https://api.ohmygpt.com", "api2gpt": "https://api.api2gpt.com",
    "aigc2d": "https://api.aigc2d.com", "anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com",
    "zhipu": "https://open.bigmodel.cn", "zhipu_v4": "https://open.bigmodel.cn", "ali": "https://dashscope.aliyuncs.com",
    "alibailian": "https://dashscope.aliyuncs.com", "openrouter": "https://openrouter.ai/api",
    "gemini": "https://generativelanguage.googleapis.com", "moonshot": "https://api.moonshot.cn",
    "geminiopenaicompatible": "https://generativelanguage.googleapis.com/v1beta/openai",
    "baichuan": "https://api.baichuan-ai.com", "minimax": "https://api.minimax.chat", "mistral": "https://api.mistral.ai",
    "groq": "https://api.groq.com/openai", "ollama": "http://localhost:11434", "stepfun": "https://api.stepfun.com",
    "lingyiwanwu": "https://api.lingyiwanwu.com", "cohere": "https://api.cohere.ai", "xai": "https://api.x.ai",
    "deepseek": "https://api.deepseek.com", "togetherai": "https://api.together.xyz", "azure": "", "custom": "",
    "doubao": "https://ark.cn-beijing.volces.com", "volcengine": "https://ark.cn-beijing.volces.com",
    "novita": "https://api.novita.ai/v3/openai", "siliconflow": "https://api.siliconflow.cn",
    "baiduv2": "https://qianfan.baidubce.com", "xunfeiv2": "https://spark-api-open.xf-yun.com", "openaicompatible": "",
    "perplexity": "https://api.perplexity.ai", "xinference": "", "submodel": "https://llm.submodel.ai",
}  # fmt: skip
PREFIXES = {
    **{"ali": "dashscope", "alibailian": "dashscope", "zhipu": "zai", "zhipu_v4": "zai", "doubao": "volcengine"},
    **{"togetherai": "together_ai", "geminiopenaicompatible": "gemini"},
}


@pytest.mark.parametrize(
    ("types", "names"),
    [(ONE_API, dict(enumerate(ONE_API_NAMES.split()))), (NEW_API, NEW_API_NAMES)],
    ids=["one-api", "new-api"],
)
def test_each_type_is_what_the_programs_own_source_says(types: Any, names: dict[int, str]) -> None:
    for number, kind in types.items():
        name = names[number].lower()
        assert kind.root == ADDRESSES[name], number
        assert kind.prefix in (PREFIXES.get(name, name), "openai_like"), number
    speak_otherwise = {
        *(
            "unknown",
            "ails",
            "aiproxy",
            "palm",
            "baidu",
            "xunfei",
            "ai360",
            "360",
            "aiproxylibrary",
            "fastgpt",
            "tencent",
        ),
        *(
            "awsclaude",
            "aws",
            "coze",
            "cloudflare",
            "deepl",
            "vertextai",
            "vertexai",
            "proxy",
            "replicate",
            "midjourney",
        ),
        *(
            "midjourneyplus",
            "sunoapi",
            "dify",
            "jina",
            "mokaai",
            "kling",
            "jimeng",
            "vidu",
            "doubaovideo",
            "sora",
            "codex",
        ),
    }
    assert {name.lower() for number, name in names.items() if number not in types} <= speak_otherwise


def test_exports_as_json_are_read(tmp_path: Path) -> None:
    rows = [channel(type=1)]
    for value in (rows, {"data": rows}, {"data": {"items": rows, "total": 1}}, {"channels": rows, "tokens": []}):
        file = tmp_path / "export.json"
        file.write_text(json.dumps(value))
        assert read_one_api(file).channels == rows
    for text in ("[]", "{", "SQLite format 4", '{"data": 1}'):
        file.write_text(text)
        with pytest.raises(ConfigError):
            read_one_api(file)
