"""Models pulled from a hub through a running gateway: chosen, fetched, checked, served, kept, removed, refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
from model_hub import ModelHub
from running_gateway import Running, run_gateway
from tiny_gguf import write_llama, write_parrot

from sage.errors import ConfigError
from sage.middleware.app.main import make_gateway
from sage.middleware.providers.local.gguf import read_gguf
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
REPO = "org/Tiny-GGUF"
Start = Callable[[], AbstractContextManager[Running]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    with ModelHub() as hub:
        for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield hub


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts gateways on one data directory, each of which is the restart of the last."""

    def make() -> AbstractContextManager[Running]:
        data = {"data_dir": tmp_path / "data", "api": {"port": 0, "access_log": False}}
        return run_gateway(Settings.model_validate({**data, "llm": {"models": {"taken": _taken()}}}))

    return make


def _taken() -> dict[str, Any]:
    return {"deployments": [{"provider": "local", "model": "gemma-3-270m"}]}


@pytest.fixture
def running(hub: ModelHub, start: Start) -> Iterator[Running]:
    with start() as running:
        yield running


def parrot(tmp_path: Path, says: str) -> bytes:
    return write_parrot(tmp_path / "parrot.gguf", says).read_bytes()


def pull(running: Running, source: str = f"hf:{REPO}", key: str | None = None, **options: Any) -> list[dict[str, Any]]:
    """The events of a pull that begins."""
    answer = running.post(f"/models/{source}/pull", options, key=key)
    assert answer.status_code == 200, answer.text
    *events, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return list(map(json.loads, events)) if end == "[DONE]" else [*map(json.loads, events), json.loads(end)]


def refused(running: Running, source: str = f"hf:{REPO}", key: str | None = None, **options: Any) -> tuple[int, Any]:
    answer = running.post(f"/models/{source}/pull", options, key=key)
    return answer.status_code, answer.json()["error"]


def says(running: Running, model: str) -> str:
    answer = running.chat(model)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def models(tmp_path: Path) -> list[str]:
    """The files that there are below the directory of models."""
    place = tmp_path / "data" / "models"
    names = (str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    return sorted(name for name in names if not name.endswith((".lock", "catalog.json")))


def test_a_pulled_model_answers_at_once_and_after_a_restart(hub: ModelHub, start: Start, tmp_path: Path) -> None:
    content = parrot(tmp_path, "Hello there, friend.")
    hub.put(REPO, "tiny-q4_k_m.gguf", content)
    hub.put(REPO, "tiny-q8_0.gguf", b"not asked for")
    with start() as running:
        events = pull(running)
        assert events[0] == {"status": "tiny-q4_k_m.gguf (others: Q8_0)", "completed": None, "total": None}
        assert events[1]["status"] == "pulling tiny-q4_k_m.gguf"
        pulling = [event for event in events if event["status"] == "pulling tiny-q4_k_m.gguf"]
        assert (pulling[0]["completed"], pulling[-1]["completed"]) == (0, len(content))
        assert {event["total"] for event in pulling} == {len(content)}
        assert events[-1] == {"status": "success", "completed": None, "total": None, "model": "tiny"}
        assert says(running, "tiny") == "Hello there, friend."
        assert says(running, "local/tiny") == "Hello there, friend."
        shown = running.get("/models/tiny").json()
        assert (shown["source"], shown["provider"], shown["state"]) == ("file", "local", "ready")
    with start() as running:
        assert says(running, "tiny") == "Hello there, friend."
        assert "tiny" in [model["id"] for model in running.get("/v1/models").json()["data"]]
        assert running.request("DELETE", "/models/tiny").status_code == 204
        assert running.get("/models/tiny").status_code == 404
        assert running.chat("local/tiny").status_code == 404
        assert running.request("DELETE", "/models/tiny").status_code == 404
    assert models(tmp_path) == []
    with start() as running:
        assert running.get("/models/tiny").status_code == 404


def test_the_hub_gets_the_token_and_its_storage_does_not(
    hub: ModelHub, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Gated.")).token = "hf_good"
    status, error = refused(running)
    assert (status, error["code"]) == (403, "hub_gated")
    assert f"{hub.url}/{REPO}" in error["message"]
    assert "set HF_TOKEN where the gateway runs" in error["message"]
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    status, error = refused(running)
    assert (status, error["code"]) == (403, "hub_gated")
    assert "the account of HF_TOKEN has no access to it" in error["message"]
    assert "hf_bad" not in json.dumps(error)
    assert hub.downloads() == []
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert pull(running)[-1]["model"] == "tiny"
    [download] = hub.downloads()
    assert "authorization" not in download.headers
    assert download.headers["host"].startswith("localhost")


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [((403, ""), 403, "hub_gated"), ((404, "RepoNotFound"), 404, "hub_not_found"), ((500, ""), 502, "hub_failed")],
)
def test_what_the_hub_refuses(
    hub: ModelHub, running: Running, refusal: tuple[int, str], status: int, code: str
) -> None:
    hub.put(REPO, "tiny.gguf", b"").refusal = refusal
    found, error = refused(running)
    assert (found, error["code"]) == (status, code)
    assert running.get("/health").status_code == 200


def test_what_is_not_there(hub: ModelHub, running: Running) -> None:
    status, error = refused(running, "hf:org/nothing")
    assert (status, error["code"]) == (404, "hub_not_found")
    assert f"hf:org/nothing does not exist at {hub.url}, or it is private" in error["message"]
    hub.put("org/weights", "model.safetensors", b"x")
    assert refused(running, "hf:org/weights")[1]["code"] == "no_gguf"
    assert refused(running, "hf:org/../x")[0] in (400, 404)
    assert refused(running, "hf:org/weights:../../etc/passwd")[0] in (400, 404)


def test_a_download_that_breaks_goes_on_where_it_broke(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    content = parrot(tmp_path, "Whole again.")
    hub.put(REPO, "tiny-q4_k_m.gguf", content)
    hub.cuts = [50_000]
    assert pull(running)[-1]["model"] == "tiny"
    assert [request.headers.get("range") for request in hub.downloads()] == [None, "bytes=32768-"]
    assert says(running, "tiny") == "Whole again."


def test_a_client_that_leaves_ends_the_pull_and_the_next_one_goes_on(
    hub: ModelHub, running: Running, tmp_path: Path
) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Second half."))
    hub.hangs_after = 60_000
    with requests.post(
        f"{running.url}/models/hf:{REPO}/pull", json={}, headers=running.headers(), stream=True, timeout=30
    ) as answer:
        lines = answer.iter_lines(chunk_size=1)  # held: to drop it closes the connection
        while b'"completed":32768' not in next(lines):
            pass
        status, error = refused(running)
        assert (status, error["code"]) == (409, "pull_running")
    [part] = models(tmp_path)
    assert part.startswith("hf/org/Tiny-GGUF/tiny-q4_k_m.gguf.")
    assert running.get("/models/tiny").status_code == 404
    hub.hangs_after = None
    assert _pull_when_free(running)[-1]["model"] == "tiny"
    assert hub.downloads()[-1].headers["range"] == "bytes=32768-"
    assert says(running, "tiny") == "Second half."
    assert models(tmp_path) == ["hf/org/Tiny-GGUF/tiny-q4_k_m.gguf"]


def _pull_when_free(running: Running) -> list[dict[str, Any]]:
    """The pull before may need a moment to end."""
    answer = running.post(f"/models/hf:{REPO}/pull", {})
    while answer.status_code == 409:
        answer = running.post(f"/models/hf:{REPO}/pull", {})
    return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]


def test_a_file_that_arrives_damaged_is_deleted(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    content = parrot(tmp_path, "Damaged.")
    hub.put(REPO, "tiny-q4_k_m.gguf", content, sha256="ab" * 32)
    error = pull(running)[-1]["error"]
    assert (error["code"], error["type"]) == ("hub_checksum", "upstream_error")
    assert "ab" * 32 in error["message"]
    assert models(tmp_path) == []
    assert running.get("/models/tiny").status_code == 404
    hub.put(REPO, "tiny-q4_k_m.gguf", b"<html>no model</html>")
    hub.repos[REPO].sums.clear()
    assert pull(running)[-1]["error"]["code"] == "hub_not_gguf"
    assert models(tmp_path) == []


def test_what_does_not_fit_on_the_disk_is_not_begun(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Large."), size=2**50)
    status, error = refused(running)
    assert (status, error["code"]) == (503, "disk_full")
    assert "1073741824 MiB more" in error["message"]
    assert hub.downloads() == []


def test_without_a_network(hub: ModelHub, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        status, error = refused(running)
    assert (status, error["code"]) == (502, "hub_unreachable")
    assert "HF_ENDPOINT" in error["message"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(running)[1]["message"] == "HF_HUB_OFFLINE is set, so nothing is pulled"


def test_names_that_are_taken_or_not_allowed_cost_no_download(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Mine."))
    hub.put("other/Tiny-GGUF", "other-q4_k_m.gguf", b"x")
    assert refused(running, name="taken")[1]["code"] == "model_configured"
    assert refused(running, name="a/b")[0] == 400
    assert refused(running, context=1)[0] == 400
    assert refused(running, colour="blue")[0] == 400
    only = running.new_key(models=["mine*"], scopes=["models:write", "models:read", "generate"])
    assert refused(running, key=only)[1]["code"] == "model_not_allowed"
    assert refused(running, key=running.new_key(scopes=["generate"]))[1]["code"] == "missing_scope"
    assert hub.downloads() == []
    assert pull(running, key=only, name="mine", context=512)[-1]["model"] == "mine"
    assert says(running, "mine") == "Mine."
    assert refused(running, "hf:other/Tiny-GGUF", name="mine")[1]["code"] == "model_exists"
    assert running.post("/models/mine", _taken()).json()["error"]["code"] == "model_configured"


def test_a_model_that_changed_at_the_hub_is_pulled_anew(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "First words."))
    pull(running)
    assert says(running, "tiny") == "First words."
    assert "tiny-q4_k_m.gguf is here already" in [event["status"] for event in pull(running)]
    assert len(hub.downloads()) == 1
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Later words."))
    assert pull(running)[-1]["model"] == "tiny"
    assert says(running, "tiny") == "Later words."


def test_a_pull_again_changes_how_a_model_is_started(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Short."))
    pull(running)
    assert says(running, "tiny") == "Short."
    pull(running, context=64)
    long = running.post("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x " * 90}]})
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert len(hub.downloads()) == 1


def test_an_answer_that_runs_outlives_its_model(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", write_llama(tmp_path / "llama.gguf").read_bytes())
    pull(running)
    answer = running.chat("tiny", stream=True, max_tokens=600, ignore_eos=True)
    lines = answer.iter_lines(chunk_size=1)
    while b'"content":' not in next(lines):
        pass
    assert running.request("DELETE", "/models/tiny").status_code == 204
    assert running.chat("tiny").status_code == 404
    assert [line for line in lines if line][-1] == b"data: [DONE]"


def test_a_split_model_and_one_of_modelscope(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    write_parrot(tmp_path / "split-q4_k_m.gguf", "All of me.", split=9)
    parts = sorted(tmp_path.glob("split-q4_k_m-*-of-*.gguf"))
    assert len(parts) > 1
    for part in parts:
        hub.put(REPO, part.name, part.read_bytes())
    assert pull(running, f"ms:{REPO}:Q4_K_M")[-1]["model"] == "split-q4_k_m"
    assert says(running, "split-q4_k_m") == "All of me."
    assert models(tmp_path) == [f"ms/{REPO}/{part.name}" for part in parts]
    size = sum(part.stat().st_size for part in parts)
    assert running.get("/models/split-q4_k_m").json()["memory"] >= size
    head, first = read_gguf(tmp_path / parts[0].name), parts[0].stat().st_size
    assert head is not None
    assert head.size == size > first
    assert running.request("DELETE", "/models/split-q4_k_m").status_code == 204
    assert models(tmp_path) == []


def test_a_model_without_a_template_is_told_and_one_that_embeds_embeds(
    hub: ModelHub, running: Running, tmp_path: Path
) -> None:
    hub.put(REPO, "base-q4_k_m.gguf", write_llama(tmp_path / "base.gguf", template="").read_bytes())
    assert any("no chat template" in event["status"] for event in pull(running))
    hub.put("org/llama", "llama.gguf", write_llama(tmp_path / "llama.gguf").read_bytes())
    pull(running, "hf:org/llama", task="embed", name="vectors")
    answer = running.post("/v1/embeddings", {"model": "vectors", "input": "red"})
    assert answer.status_code == 200
    assert len(answer.json()["data"][0]["embedding"]) == 64


def test_a_mirror_that_lists_names_alone(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    repo = hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "By head."), sha256="cd" * 32)
    repo.names_only = True
    assert pull(running)[-1]["error"]["code"] == "hub_checksum"
    repo.sums.clear()
    assert pull(running)[1]["total"] == len(repo.files["tiny-q4_k_m.gguf"])
    assert says(running, "tiny") == "By head."


def test_modelscope_refuses(hub: ModelHub, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, error = refused(running, "ms:org/none")
    assert (status, error["code"]) == (404, "hub_not_found")
    assert "MODELSCOPE_API_TOKEN" in error["message"]
    hub.put(REPO, "tiny.gguf", parrot(tmp_path, "Private.")).token = "ms-good"
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-good")
    assert pull(running, f"ms:{REPO}")[-1]["model"] == "tiny"
    assert "authorization" not in hub.downloads()[-1].headers


def test_a_hub_that_sends_more_than_it_says_or_is_none(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Endless."), size=70_000)
    assert pull(running)[-1]["error"]["code"] == "hub_broken"
    assert sum((tmp_path / "data" / "models" / name).stat().st_size for name in models(tmp_path)) <= 70_000
    hub.page = b"<html>log in to this network</html>"
    for source in (f"hf:{REPO}", f"ms:{REPO}"):
        status, error = refused(running, source)
        assert (status, error["code"]) == (502, "hub_failed")
        assert "no list of files" in error["message"]
    assert "MODELSCOPE_DOMAIN" in error["message"]


def test_a_broken_list_is_named(hub: ModelHub, start: Start, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Still here."))
    catalog = tmp_path / "data" / "models" / "catalog.json"
    with start() as running:
        pull(running)
        good = catalog.read_text()
        catalog.write_text("{")
        assert says(running, "tiny") == "Still here."
        assert running.get("/models").status_code == 200
        with pytest.raises(ConfigError, match=r"catalog\.json with the models that .* cannot be read"):
            make_gateway(running.settings)
    catalog.write_text(good)
    with start() as running:
        assert says(running, "tiny") == "Still here."


def test_two_pulls_at_once(hub: ModelHub, running: Running, tmp_path: Path) -> None:
    hub.put(REPO, "tiny-q4_k_m.gguf", parrot(tmp_path, "Once."))
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: running.post(f"/models/hf:{REPO}/pull", {}), range(3)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert any(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert says(running, "tiny") == "Once."
