"""`sage serve` and its end: what keeps it from starting is one line, and SIGTERM cuts no stream."""

from __future__ import annotations

import json
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from sage_process import children, environment, sage, serving
from upstream import Upstream, chat_chunk

pytestmark = pytest.mark.slow


def refused(done, *texts: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("sage: ")
    for text in texts:
        assert text in done.stderr


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(
            sage(["serve", "--port", str(port)], environment(tmp_path), cwd=tmp_path),
            f"port {port}",
            "choose another port",
        )


def test_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("api: {prot: 1}")
    refused(sage(["serve"], environment(tmp_path), cwd=tmp_path), "config.yaml", "prot", "did you mean 'port'?")


def test_no_auth_beyond_loopback(tmp_path: Path) -> None:
    done = sage(["serve", "--no-auth", "--host", "0.0.0.0"], environment(tmp_path), cwd=tmp_path)
    refused(done, "loopback", "0.0.0.0")


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(sage(["serve", "--port", "0"], environment(tmp_path / "file" / "data"), cwd=tmp_path), "data")


def test_a_missing_configuration_file(tmp_path: Path) -> None:
    refused(sage(["serve", "--config", "no.yaml"], environment(tmp_path), cwd=tmp_path), "no.yaml")


def test_unknown_arguments_are_usage(tmp_path: Path) -> None:
    assert sage(["serve", "--prot", "1"], environment(tmp_path), cwd=tmp_path).returncode == 2


def test_without_the_extra_the_gateway_serves_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"llm: {{providers: {{local: {{models: {{x: {{path: {tmp_path}/x.gguf}}}}}}}}}}"
    )
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(64))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "xllamacpp.py").write_text("raise ImportError('hidden by the test')")
    env = environment(tmp_path / "data")
    env["PYTHONPATH"] = f"{hidden}:{env['PYTHONPATH']}"
    with serving(["--port", "0", "--no-auth"], env, tmp_path) as running:
        answer = requests.post(f"{running.url}/generate", json={"model": "x", "prompt": "hi"}, timeout=30)
        assert answer.status_code == 503
        assert "intellistream-sage-middleware[local]" in answer.json()["error"]["message"]
        assert children(running.process.pid) == set()


def test_streams_that_run_finish_after_sigterm(tmp_path: Path) -> None:
    with Upstream() as up:
        up.stream([chat_chunk(str(number)) for number in range(10)] + [chat_chunk(None, "stop")], delay=0.1)
        env = environment(tmp_path / "data", OPENAI_BASE_URL=up.url)
        with serving(["--port", "0", "--no-auth"], env, tmp_path) as running:
            body = {"model": "gpt-x", "messages": [{"role": "user", "content": "x"}], "stream": True}
            answer = requests.post(f"{running.url}/v1/chat/completions", json=body, stream=True, timeout=30)
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
            assert rest[-1] == b"data: [DONE]"
            assert len(rest) == 11
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{running.url}/health", timeout=5)
        assert running.process.returncode == 0


def test_after_the_shutdown_grace_streams_and_calls_get_an_error(tmp_path: Path) -> None:
    with Upstream() as up:
        up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1, times=1)
        up.hang()
        env = environment(tmp_path / "data", OPENAI_BASE_URL=up.url, SAGE_API__SHUTDOWN_GRACE="1s")
        with serving(["--port", "0", "--no-auth"], env, tmp_path) as running, ThreadPoolExecutor(1) as pool:
            body = {"model": "gpt-x", "messages": [{"role": "user", "content": "x"}]}
            url = f"{running.url}/v1/chat/completions"
            stream = requests.post(url, json={**body, "stream": True}, stream=True, timeout=30)
            lines = (line for line in stream.iter_lines() if line)
            assert b"one" in next(lines)
            whole = pool.submit(requests.post, url, json=body, timeout=30)
            up.wait_requests(2)
            running.process.send_signal(signal.SIGTERM)
            rest = list(lines)
            assert len(rest) == 1
            assert json.loads(rest[0].removeprefix(b"data: "))["error"]["code"] == "shutting_down"
            assert whole.result().status_code == 503
            assert whole.result().json()["error"]["code"] == "shutting_down"
            assert whole.result().headers["retry-after"]
        log = running.log.read_text()
        assert "Traceback" not in log
        assert "waiting at most 1 s for 2 running request(s)" in log
        assert log.count('"error":"shutting_down"') == 2


def test_a_fresh_server_knows_no_credential_and_prints_none(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(["--port", "0"], environment(data), tmp_path) as running:
        for credential in ("sk-1234", "admin", "sk-sage-1234", ""):
            head = {"Authorization": f"Bearer {credential}"}
            assert requests.get(f"{running.url}/models", headers=head, timeout=5).status_code == 401
        setup = data / "setup-token"
        assert stat.S_IMODE(setup.stat().st_mode) == 0o600
        token = setup.read_text().strip()
        assert token not in "\n".join(running.welcome)
        body = {"token": token, "username": "me", "password": "a password of my own"}
        created = requests.post(f"{running.url}/auth/setup", json=body, timeout=30)
        assert created.status_code in (200, 201), created.text
        assert not setup.exists()
        assert requests.post(f"{running.url}/auth/setup", json=body, timeout=30).status_code == 401
        login = requests.post(
            f"{running.url}/auth/token", data={"username": "me", "password": "a password of my own"}, timeout=30
        ).json()
        me = requests.get(
            f"{running.url}/auth/me", headers={"Authorization": f"Bearer {login['access_token']}"}, timeout=5
        ).json()
        assert me["role"] == "admin"
    log = running.log.read_text()
    for secret in (token, login["access_token"], login["refresh_token"], "a password of my own"):
        assert secret not in log
    assert all(json.loads(line)["status"] for line in log.splitlines())
