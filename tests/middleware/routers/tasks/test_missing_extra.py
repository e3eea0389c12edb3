"""A gateway without the extra `queue`: files work, and a job is refused by an answer that names the extra."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from sage_process import environment, serving, without

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}'


@pytest.mark.slow
def test_jobs_without_the_extra_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    with serving(["--no-auth", "--port", "0"], env, tmp_path, command=without(["celery"])) as served:
        upload = {"file": ("in.jsonl", LINE)}
        file = requests.post(f"{served.url}/v1/files", files=upload, data={"purpose": "batch"}, timeout=30)
        assert file.status_code == 200
        batch = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for path, body in (("/tasks/generate", {"model": "gemma-3-270m", "prompt": "hi"}), ("/v1/batches", batch)):
            answer = requests.post(served.url + path, json=body, timeout=30)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "missing_extra"), answer.text
            assert "pip install 'intellistream-sage-middleware[queue]'" in error["message"]
        assert requests.get(f"{served.url}/tasks", timeout=30).json()["tasks"] == []
        assert requests.get(f"{served.url}/v1/batches", timeout=30).json()["data"] == []
