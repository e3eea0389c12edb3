"""What of a setting is shown: no secret of any kind, wherever a configuration may have one."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from sage.middleware.settings.effective.masking import MASK, Redaction, address_shown, command_shown, masked
from sage.middleware.settings.effective.rows import secrets_of, setting_rows
from sage.middleware.settings.settings import Settings

SECRET = st.text(string.ascii_letters + string.digits, min_size=16, max_size=40).map(lambda text: f"zq{text}9")
PLACES: list[dict[str, Any]] = [
    {"database": "postgresql://me:SECRET@db.example:5432/sage?sslpassword=SECRET"},
    {"services": {"discovery": "redis://:SECRET@redis.example:6379"}},
    {"services": {"kv": {"redis_url": "redis://:SECRET@redis.example:6379"}}},
    {"queue": {"broker": "redis://me:SECRET@redis.example:6379/0", "backend": "redis://me:SECRET@redis.example/1"}},
    {"queue": {"flower": {"url": "http://flower.example", "password": "SECRET-SECRET-SECRET-SECRET"}}},
    {"limits": {"redis": "rediss://me:SECRET@redis.example:6379/0"}},
    {"llm": {"providers": {"anthropic": {"auth_token": "SECRET"}}}},
    {"llm": {"providers": {"openai": {"api_key": "SECRET", "api_keys": ["SECRET-2"], "headers": {"X-Key": "SECRET"}}}}},
    {
        "llm": {
            "providers": {"openai": {"api_key": "k", "base_url": "https://api.example/SECRET/v1?subscription=SECRET"}}
        }
    },
    {"llm": {"providers": {"openai": {"api_key": "k", "proxy": "http://me:SECRET@proxy.example:3128"}}}},
    {"llm": {"providers": {"vllm": {"command": ["vllm", "SECRET", "--key=SECRET"], "environment": {"A": "SECRET"}}}}},
    {"mcp": {"servers": {"a": {"url": "https://mcp.example/SECRET?token=SECRET", "headers": {"A": "Bearer SECRET"}}}}},
    {"mcp": {"servers": {"b": {"command": ["npx", "-y", "SECRET"], "environment": {"TOKEN": "SECRET"}}}}},
]


@pytest.mark.parametrize("sections", PLACES, ids=lambda sections: "-".join(str(sections).split("'")[1:4:2]))
def test_a_secret_in_its_place_is_hidden(sections: dict[str, Any]) -> None:
    secret = "zqXw90210abcdefgh"
    made = Settings.model_validate(_filled(sections, secret))
    rows = setting_rows(made, None, b"key")
    shown = to_json([(row.path, row.value, row.default) for row in rows.values()]).decode()
    assert secret not in shown
    assert [row.path for row in rows.values() if row.is_secret] != []
    for known in secrets_of(made):
        assert len(known) < 6 or known not in shown


def _filled(value: Any, secret: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(each, secret) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, secret) for each in value]
    return value.replace("SECRET", secret)


@given(SECRET, st.sampled_from(["https", "redis", "postgresql+psycopg"]), st.sampled_from(["", ":8443"]))
@settings(max_examples=60, deadline=None)
def test_addresses_keep_their_host_alone(secret: str, scheme: str, port: str) -> None:
    address = f"{scheme}://me:{secret}@host.example{port}/v1/{secret}?key={secret}&{secret}#{secret}"
    assert address_shown(address) == f"{scheme}://{MASK}@host.example{port}/v1/{MASK}?key={MASK}&{MASK}#{MASK}"
    odd = f"{scheme}://me:pa/{secret}@host.example/"  # a slash in the password: the host cannot be told
    assert address_shown(odd) == MASK


@given(SECRET)
@settings(max_examples=30, deadline=None)
def test_arguments_show_options_and_numbers_alone(secret: str) -> None:
    words = ["serve", "--max-model-len", "4096", "--token", secret, f"--api-key={secret}", f"-p{secret}", "--gpu=0.9"]
    assert command_shown(["vllm", *words], with_program=True) == [
        *("vllm", MASK, "--max-model-len", "4096", "--token", MASK, f"--api-key={MASK}", MASK, "--gpu=0.9")
    ]


def test_parameters_of_jobs_and_sentences() -> None:
    params = {"collection": "notes", "urls": ["https://h.example/?sig=abc"], "api_key": "abcdef", "max_tokens": 5}
    assert masked(("params",), params)[0] == {
        "collection": "notes",
        "urls": [f"https://h.example/?sig={MASK}"],
        "api_key": MASK,
        "max_tokens": 5,
    }
    assert Redaction(["hunter2-hunter2"])("'hunter2-hunter2' is not a duration") == f"'{MASK}' is not a duration"
    assert Redaction([])("sent Bearer sk-abcdefghijkl to http://u:p@h") == f"sent {MASK} to http://{MASK}@h"
