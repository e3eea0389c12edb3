"""A new user's first minute, on the real model: serve, log in, ask by curl, by the SDK, by the CLI and in Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests
from readme import READMES, blocks
from sage_process import ROOT, Serving, children, environment, sage, serving, wait_gone, with_command

pytestmark = pytest.mark.slow
QUESTION = "What is the capital of France?"
ASKED = {"model": "gemma-3-270m", "prompt": QUESTION, "temperature": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def env(place: Path) -> dict[str, str]:
    return environment(place / "data")


@pytest.fixture(scope="module")
def server(place: Path, env: dict[str, str]) -> Iterator[Serving]:
    with serving(["--port", "0"], env, place) as running:
        made = sage(
            ["user", "add", "me", "--role", "admin", "--password-stdin"], env, cwd=place, stdin="a long password\n"
        )
        assert made.returncode == 0, made.stderr
        yield running
        family = children(running.process.pid)
    wait_gone(family)  # a gateway that ends leaves no engine


@pytest.fixture(scope="module")
def token(server: Serving, place: Path, env: dict[str, str]) -> str:
    return sage(["token"], env, cwd=place).stdout.strip()


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def state(server: Serving, token: str) -> dict:
    models = requests.get(f"{server.url}/models", headers=headers(token), timeout=10).json()["models"]
    return next(model for model in models if model["name"] == "gemma-3-270m")


def test_it_says_what_to_do_next_and_that_works_when_pasted(server: Serving, place: Path, env: dict[str, str]) -> None:
    assert len(server.welcome) <= 4
    assert f"{server.url}/docs" in server.welcome[0]
    assert "user add me --role admin" in server.welcome[1]
    command = server.welcome[2].partition("then ask it: ")[2]
    assert "$(" in command
    pasted = {**env, "PATH": with_command(place)["PATH"]}
    done = subprocess.run(["bash", "-c", command], env=pasted, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["text"] == "Paris"
    assert answer["provider"] == "local"
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_login_by_password_then_generate_by_curl(server: Serving) -> None:
    form = ["-d", "username=me", "--data-urlencode", "password=a long password"]
    login = subprocess.run(
        ["curl", "-s", f"{server.url}/auth/token", *form], capture_output=True, text=True, timeout=30
    )
    token = json.loads(login.stdout)["access_token"]
    asked = ["-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json", "-d", json.dumps(ASKED)]
    done = subprocess.run(["curl", "-s", f"{server.url}/generate", *asked], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["text"] == "Paris"


def test_the_sdk_plain_and_streaming(server: Serving, place: Path, env: dict[str, str]) -> None:
    key = sage(["key", "add", "--user", "me", "--model", "gemma-*"], env, cwd=place).stdout.strip()
    assert re.fullmatch(r"sk-sage-\S+", key)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        messages = [{"role": "user", "content": QUESTION}]
        plain = client.chat.completions.create(model="gemma-3-270m", messages=messages, temperature=0)
        chunks = list(
            client.chat.completions.create(
                model="gemma-3-270m",
                messages=messages,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        raw = client.completions.create(
            model="gemma-3-270m", prompt=f"Question: {QUESTION}\nAnswer:", temperature=0, max_tokens=1
        )
    assert plain.choices[0].message.content == "Paris"
    assert plain.model == "gemma-3-270m"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Paris"
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens
    assert raw.choices[0].text == " Paris"


def test_the_command_line(server: Serving, place: Path, env: dict[str, str]) -> None:
    env = {**env, "SAGE_URL": server.url}
    done = sage(["generate", "gemma-3-270m", QUESTION, "--temperature", "0"], env, cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Paris\n", "")
    listed = json.loads(sage(["models", "list", "--json"], env, cwd=place).stdout)["models"]
    assert [model["state"] for model in listed if model["name"] == "gemma-3-270m"] == ["ready"]
    assert "gemma-3-270m: ready" in sage(["models", "show", "gemma-3-270m"], env, cwd=place).stdout
    wrong = sage(["generate", "gemma", QUESTION], env, cwd=place)
    assert wrong.returncode == 1
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("sage: model 'gemma' is not registered; registered: gemma-3-270m")
    assert wrong.stderr.count("\n") == 1


def test_unload_ends_the_process_and_ten_requests_at_once_start_one(server: Serving, token: str) -> None:
    requests.post(f"{server.url}/generate", json=ASKED, headers=headers(token), timeout=60)
    assert state(server, token)["state"] == "ready"
    family = children(server.process.pid)
    assert len(family) == 3  # two nested stubs and the engine
    resident = max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family) * 4096
    assert resident > 200e6
    unloaded = requests.post(f"{server.url}/models/gemma-3-270m/unload", headers=headers(token), timeout=60)
    assert unloaded.json()["state"] == "unloaded"
    wait_gone(family)
    assert children(server.process.pid) == set()
    ten_requests_start_one_process(server, token)
    assert state(server, token)["loaded_at"] is not None


def ten_requests_start_one_process(server: Serving, token: str) -> None:
    def ask(_: int) -> str:
        answer = requests.post(f"{server.url}/generate", json=ASKED, headers=headers(token), timeout=120)
        return answer.json()["text"]

    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(ask, number) for number in range(10)]
        seen: set[int] = set()
        while not all(future.done() for future in waiting):
            seen |= children(server.process.pid)
            time.sleep(0.02)
        assert [future.result() for future in waiting] == ["Paris"] * 10
    assert len(seen) == 3


def test_load_without_waiting(server: Serving, token: str) -> None:
    requests.post(f"{server.url}/models/gemma-3-270m/unload", headers=headers(token), timeout=60)
    answer = requests.post(f"{server.url}/models/gemma-3-270m/load?wait=false", headers=headers(token), timeout=10)
    assert answer.status_code == 202
    assert answer.json()["state"] == "loading"
    deadline = time.monotonic() + 60
    while state(server, token)["state"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bad_input_is_told_in_one_line_and_leaves_nothing_running(server: Serving, token: str) -> None:
    long = requests.post(
        f"{server.url}/generate", json={**ASKED, "prompt": "word " * 9000}, headers=headers(token), timeout=60
    )
    assert long.status_code == 400
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert "a context of 4096; shorten it" in long.json()["error"]["message"]
    unknown = requests.post(
        f"{server.url}/generate", json={**ASKED, "model": "gemma"}, headers=headers(token), timeout=9
    )
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert (
        requests.post(
            f"{server.url}/v1/embeddings",
            json={"model": "gemma-3-270m", "input": "x"},
            headers=headers(token),
            timeout=9,
        )
        .json()["error"]["message"]
        .startswith("the local model 'gemma-3-270m' has task: generate, and embeddings needs one with task: embed")
    )


def test_an_answer_that_asks_for_no_bound_has_one(server: Serving, token: str) -> None:
    asked = {"model": "gemma-3-270m", "prompt": "Hello", "temperature": 0, "stream": True}
    answer = requests.post(f"{server.url}/generate", json=asked, headers=headers(token), timeout=240).text
    last, done = [event for event in answer.split("\n\n") if event][-2:]
    assert done == "data: [DONE]"
    assert 0 < json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"] <= 256


def test_the_examples_run_as_written(place: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "stream.py"],
        env=env,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.stdout == "Paris\n", done.stderr
    keys = {**env, "OPENAI_API_KEY": "k", "EAST_KEY": "k"}
    file = str(ROOT / "examples" / "two-providers.yaml")
    checked = sage(["config", "check", "--config", file], keys, cwd=place)
    assert checked.returncode == 0, checked.stderr
    assert "models: chat, gemma-3-270m" in checked.stdout


def test_a_file_that_is_no_gguf(place: Path, env: dict[str, str]) -> None:
    (place / "bad.gguf").write_text("this is no model")
    config = {
        "data_dir": str(place / "data2"),
        "llm": {"providers": {"local": {"models": {"bad": {"path": str(place / "bad.gguf")}}}}},
    }
    (place / "bad.yaml").write_text(json.dumps(config))
    kept = {name: value for name, value in env.items() if name != "SAGE_DATA_DIR"}
    with serving(["--port", "0", "--no-auth", "--config", "bad.yaml"], kept, place) as running:
        answer = requests.post(f"{running.url}/generate", json={**ASKED, "model": "bad"}, timeout=60)
        assert answer.status_code == 503
        assert "bad.gguf" in answer.json()["error"]["message"]
        assert "GGUF" in answer.json()["error"]["message"]
        shown = requests.get(f"{running.url}/models/bad", timeout=10).json()
        assert shown["state"] == "failed"
        assert "GGUF" in shown["error"]["message"]
        assert children(running.process.pid) == set()


def test_start_to_first_answer_and_a_killed_gateway_leaves_no_engine(place: Path, env: dict[str, str]) -> None:
    begun = time.monotonic()
    with serving(["--port", "0", "--no-auth"], env, place) as running:
        assert requests.post(f"{running.url}/generate", json=ASKED, timeout=60).json()["text"] == "Paris"
        assert time.monotonic() - begun < 30  # the goal is 10 s on a quiet machine; this is a bound on waiting
        family = children(running.process.pid)
        assert len(family) == 3
        running.process.kill()
        running.process.wait(10)
        wait_gone(family)


def test_the_readmes_of_both_languages_have_the_same_code() -> None:
    english, chinese = ([block for block in blocks(name) if block.language in ("python", "yaml")] for name in READMES)
    assert len(english) >= 4
    assert english == chinese
