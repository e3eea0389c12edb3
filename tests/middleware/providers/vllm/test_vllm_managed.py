"""vLLM servers that the gateway starts itself: a small program in vLLM's place, real processes all the way down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import SCRIPTED
from sage_process import children, environment, serving, wait_gone

pytestmark = pytest.mark.slow
FAKE = str(SCRIPTED / "fake_vllm.py")
MODEL = "some/model"
ENGINE = "sage.middleware.providers.vllm.engine"


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files whose path is short enough for a socket's."""
    place = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def llm(notes: Path, *args: str, provider: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    engine = {"args": ["--notes", str(notes), *args]}
    vllm = {"command": [sys.executable, "-I", "-S", FAKE], **(provider or {})}
    return {
        "providers": {"vllm": vllm},
        "models": {"big": {"deployments": [{"provider": "vllm", "model": MODEL, "engine": engine}], **model}},
    }


def started(notes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def pids(notes: Path) -> set[int]:
    return {note[name] for note in started(notes) for name in ("pid", "daemon")}


def sockets(scratch: Path) -> list[Path]:
    return [path for place in scratch.glob("sage-vllm-*") for path in place.glob("s")]


def argument(note: dict[str, Any], name: str) -> str:
    value: str = note["argv"][note["argv"].index(name) + 1]
    return value


@pytest.mark.proves("vllm", "managed server", "load and unload")
def test_load_starts_a_server_and_unload_ends_it(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes, "--some-option", "x"))
    assert running.get("/models/big").json()["state"] == "unloaded"
    assert not notes.exists()
    assert running.post("/models/big/load").json()["state"] == "ready"
    (note,) = started(notes)
    assert note["argv"][:3] == [MODEL, "--notes", str(notes)]
    assert note["argv"][-4:-1] == ["--served-model-name", MODEL, "--uds"]
    place = Path(argument(note, "--uds")).parent
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert place.parent == scratch
    answer = running.chat("big").json()
    assert answer["choices"][0]["message"]["content"] == f"{MODEL}: hello"
    assert answer["model"] == "big"
    assert running.post("/models/big/unload").json()["state"] == "unloaded"
    wait_gone(pids(notes))
    assert list(scratch.iterdir()) == []


@pytest.mark.proves("vllm", "managed server")
def test_a_request_starts_the_server_that_it_needs(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes))
    assert running.chat("big").status_code == 200
    assert running.chat("big").status_code == 200
    assert len(started(notes)) == 1


def test_the_servers_environment(
    gateway: Callable, scratch: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "."))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    variables = {"HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": "known"}
    running = gateway(llm=llm(notes, provider={"environment": variables, "lora_dir": str(tmp_path)}))
    assert running.chat("big").status_code == 200
    given = started(notes)[0]["env"]
    assert given["HF_HUB_OFFLINE"] == "1"
    assert given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert given["PATH"] == os.environ["PATH"]
    assert len(given["VLLM_API_KEY"]) >= 32
    ours = ("VLLM_SERVER_DEV_MODE", "PYTHONPATH", "OPENAI_API_KEY", "SAGE_ENGINE_KEY", "SAGE_ENGINE_OPTIONS")
    assert not set(ours) & set(given)
    assert given["VLLM_API_KEY"] not in " ".join(started(notes)[0]["argv"])


def test_adapters_are_not_opened_without_a_directory_for_them(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes))
    assert running.chat("big").status_code == 200
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in started(notes)[0]["env"]


def test_each_start_has_a_key_and_a_socket_of_its_own(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes))
    for _ in range(2):
        running.post("/models/big/load")
        running.post("/models/big/unload")
    first, second = started(notes)
    assert first["env"]["VLLM_API_KEY"] != second["env"]["VLLM_API_KEY"]
    assert argument(first, "--uds") != argument(second, "--uds")


@pytest.mark.parametrize("why", ["no-uds", "long path"])
def test_without_sockets_it_listens_on_loopback(
    why: str, gateway: Callable, scratch: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "long path":
        (scratch / ("x" * 90)).mkdir()
        monkeypatch.setenv("TMPDIR", str(scratch / ("x" * 90)))
    running = gateway(llm=llm(notes, "--misbehave", why))
    assert running.chat("big").json()["choices"][0]["message"]["content"] == f"{MODEL}: hello"
    (note,) = started(notes)
    assert argument(note, "--host") == "127.0.0.1"
    assert int(argument(note, "--port")) > 0
    assert sockets(scratch) == []


@pytest.mark.proves("vllm", "managed server", "errors")
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("fails", "ValueError: To serve at least one request, 9 GiB are needed."),
        (
            "invalid",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig; "
            "Value error, Sleep mode is not supported here.",
        ),
        ("mute", "Killed"),
    ],
)
def test_a_server_that_fails_to_start_tells_its_cause(
    how: str, cause: str, gateway: Callable, scratch: Path, notes: Path
) -> None:
    running = gateway(llm=llm(notes, "--misbehave", how))
    answer = running.chat("big")
    assert answer.status_code == 503
    message = f"the vLLM server of model '{MODEL}' exited with status 1 before it served: {cause}"
    assert answer.json()["error"]["message"] == message
    shown = running.get("/models/big").json()
    assert shown["state"] == "failed"
    assert shown["error"]["message"] == message
    assert shown["error"]["log"]
    wait_gone(pids(notes))
    assert list(scratch.iterdir()) == []


def test_the_memory_that_a_server_takes_can_be_said(gateway: Callable, notes: Path) -> None:
    config = llm(notes)
    config["models"]["big"]["deployments"][0]["engine"]["memory"] = "3GiB"
    assert gateway(llm=config).get("/models/big").json()["memory"] == 3 * 2**30


def test_a_program_that_is_not_there_is_a_clear_failure(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes, provider={"command": ["/nowhere/vllm", "serve"]}))
    answer = running.chat("big")
    assert answer.status_code == 503
    assert "'/nowhere/vllm' cannot be started: No such file" in answer.json()["error"]["message"]
    assert list(scratch.iterdir()) == []


def test_a_server_that_never_serves_is_ended(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes, "--misbehave", "silent", provider={"start_timeout": 6}))
    answer = running.chat("big")
    assert answer.status_code == 503
    assert "did not serve within 6 s" in answer.json()["error"]["message"]
    assert "INFO loading, and loading" in running.get("/models/big").json()["error"]["log"]
    wait_gone(pids(notes))
    assert list(scratch.iterdir()) == []


@pytest.mark.proves("vllm", "managed server")
def test_a_server_that_dies_is_started_anew(gateway: Callable, scratch: Path, notes: Path) -> None:
    running = gateway(llm=llm(notes, "--misbehave", "crashes"))
    answer = running.post("/v1/completions", {"model": "big", "prompt": "x"})
    assert answer.status_code == 503
    assert "was ended by SIGKILL" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]
    wait_gone(pids(notes))
    assert running.chat("big").json()["choices"][0]["message"]["content"] == f"{MODEL}: hello"
    assert len(started(notes)) == 2
    assert len(sockets(scratch)) == 1


def _line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.mark.parametrize("victim", ["launcher", "outer stub", "inner stub"])
def test_nothing_is_left_when_what_stands_between_is_killed(
    victim: str, gateway: Callable, scratch: Path, notes: Path
) -> None:
    running = gateway(llm=llm(notes, "--misbehave", "stubborn"))
    assert running.chat("big").status_code == 200
    family = {pid: _line(pid) for pid in children(os.getpid())}
    launcher = next(pid for pid, line in family.items() if line[1:3] == ["-m", ENGINE])
    outer, inner = sorted(pid for pid, line in family.items() if ENGINE in line and line[1] != "-m")
    os.kill({"launcher": launcher, "outer stub": outer, "inner stub": inner}[victim], signal.SIGKILL)
    wait_gone(pids(notes) | {launcher})
    answer = running.chat("big")  # it may come before the gateway knows
    if answer.status_code == 503:
        assert "was ended by SIGKILL" in answer.json()["error"]["message"]
        answer = running.chat("big")
    assert answer.status_code == 200
    assert len(started(notes)) == 2
    # What a launcher could not take away, the next one has.
    assert len(list(scratch.iterdir())) == 1


def test_another_users_or_a_running_launchers_directory_stays(gateway: Callable, scratch: Path, notes: Path) -> None:
    (scratch / "sage-vllm-foreign").mkdir()  # it has no lock of ours
    config = llm(notes)
    config["models"]["other"] = {
        "deployments": [{**config["models"]["big"]["deployments"][0], "model": "other/model"}]
    }  # fmt: skip
    running = gateway(llm=config)
    assert running.chat("big").status_code == 200
    assert running.chat("other").status_code == 200
    assert running.chat("big").status_code == 200
    assert len(sockets(scratch)) == 2
    assert (scratch / "sage-vllm-foreign").is_dir()


@pytest.mark.proves("vllm", "managed server")
def test_nothing_is_left_by_kill_9_of_the_gateway(scratch: Path, notes: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"llm": llm(notes, "--misbehave", "stubborn", preload=True), "api": {"port": 0}}))
    env = environment(tmp_path / "data")
    with serving(["--config", str(config), "--no-auth"], env, tmp_path) as gateway:
        deadline = time.monotonic() + 60
        while not sockets(scratch):
            assert time.monotonic() < deadline, gateway.log.read_text()
            time.sleep(0.02)
        family = children(gateway.process.pid)
        gateway.process.kill()
        gateway.process.wait()
    wait_gone(family | pids(notes))
    assert list(scratch.iterdir()) == []


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    (tmp_path / "adapters" / "tales").mkdir(parents=True)
    (tmp_path / "adapters" / "tales" / "adapter_config.json").write_text("{}")
    return tmp_path / "adapters"


def with_adapter(notes: Path, adapters: Path, *args: str) -> dict[str, Any]:
    config = llm(notes, *args, provider={"lora_dir": str(adapters)})
    base = config["models"]["big"]["deployments"][0]
    without_engine = {name: value for name, value in base.items() if name != "engine"}
    config["models"]["stories"] = {"deployments": [{**without_engine, "lora": "tales"}]}
    return config


@pytest.mark.proves("vllm", "LoRA", "managed server")
def test_an_adapter_takes_its_base_along(gateway: Callable, scratch: Path, notes: Path, adapters: Path) -> None:
    running = gateway(llm=with_adapter(notes, adapters))
    assert running.chat("stories").json()["choices"][0]["message"]["content"] == "tales: hello"
    assert running.get("/models/big").json()["state"] == "ready"
    assert running.post("/models/stories/unload").json()["state"] == "unloaded"
    assert running.get("/models/big").json()["state"] == "ready"
    assert running.chat("big").json()["choices"][0]["message"]["content"] == f"{MODEL}: hello"
    assert len(started(notes)) == 1


def test_a_base_that_is_unloaded_takes_its_adapters_along(
    gateway: Callable, scratch: Path, notes: Path, adapters: Path
) -> None:
    running = gateway(llm=with_adapter(notes, adapters))
    assert running.chat("stories").status_code == 200
    assert running.post("/models/big/unload").json()["state"] == "unloaded"
    assert running.get("/models/stories").json()["state"] == "unloaded"
    wait_gone(pids(notes))
    assert running.chat("stories").status_code == 200
    assert len(started(notes)) == 2


def test_an_adapter_is_loaded_anew_when_its_base_has_died(
    gateway: Callable, scratch: Path, notes: Path, adapters: Path
) -> None:
    running = gateway(llm=with_adapter(notes, adapters, "--misbehave", "crashes"))
    assert running.chat("stories").status_code == 200
    died = running.post("/v1/completions", {"model": "stories", "prompt": "x"})
    assert died.status_code == 503
    assert running.chat("stories").json()["choices"][0]["message"]["content"] == "tales: hello"
    assert len(started(notes)) == 2
    assert running.get("/models/big").json()["in_flight"] == 0
    assert running.post("/models/big/unload").json()["state"] == "unloaded"
    wait_gone(pids(notes))


def test_unloading_a_base_that_died_lets_its_adapters_rest_too(
    gateway: Callable, scratch: Path, notes: Path, adapters: Path
) -> None:
    running = gateway(llm=with_adapter(notes, adapters, "--misbehave", "crashes"))
    assert running.chat("stories").status_code == 200
    assert running.post("/v1/completions", {"model": "stories", "prompt": "x"}).status_code == 503
    assert running.get("/models/stories").json()["state"] == "failed"
    assert running.post("/models/big/unload").json()["state"] == "unloaded"
    stories = running.get("/models/stories").json()
    assert (stories["state"], stories["error"]) == ("unloaded", None)
    wait_gone(pids(notes))


def test_an_adapter_may_bring_its_bases_engine_itself(
    gateway: Callable, scratch: Path, notes: Path, adapters: Path
) -> None:
    config = llm(notes, provider={"lora_dir": str(adapters)})
    config["models"]["big"]["deployments"][0]["lora"] = "tales"
    running = gateway(llm=config)
    assert running.chat("big").json()["choices"][0]["message"]["content"] == "tales: hello"
    assert running.post("/models/big/unload").json()["state"] == "unloaded"


def test_a_model_that_is_managed_is_found_by_its_providers_name_too(
    gateway: Callable, scratch: Path, notes: Path
) -> None:
    running = gateway(llm=llm(notes))
    assert running.chat(f"vllm/{MODEL}").json()["choices"][0]["message"]["content"] == f"{MODEL}: hello"
    assert running.get("/models/big").json()["state"] == "ready"
    assert running.chat("big").status_code == 200
    assert len(started(notes)) == 1
    unknown = running.chat("vllm/unknown")
    assert unknown.status_code == 404
    assert "nothing serves 'unknown'" in unknown.json()["error"]["message"]
