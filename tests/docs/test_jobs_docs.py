"""`docs/jobs.md`: every block of shell and Python runs as it stands, on a real server with a real model and worker."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from loaded_process import loaded_python
from sage_process import ROOT, sage, serving, with_command

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
TEXT = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
MARK = "=====\n"


def _script(url: str, python: str) -> str:
    """All blocks of shell and Python as one script, in their order; what each printed ends with a mark.

    A program with a service of its own has a data directory of its own: that of the gateway has its gateway.
    """
    parts = ["set -e"]
    for language, code in BLOCKS:
        code = code.replace("http://127.0.0.1:8000", url)
        code = code.replace("ask() { curl -sS", "ask() { curl -sS --fail-with-body -w '\\n'")  # a line an answer
        if language == "python":
            place = 'SAGE_DATA_DIR="$PWD/own" ' if "LLMService" in code else ""
            code = f"cat > program.py <<'PROGRAM'\n{code}PROGRAM\n{place}{python} program.py\n"
        if language in ("sh", "python"):
            parts.append(f"{code}printf '\\n{MARK}'")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each block printed, by its first line."""
    place: Path = tmp_path_factory.mktemp("jobs")
    env = {**with_command(place), "COLUMNS": "120"}
    with serving(["--port", "0"], env, place) as running:
        made = sage(["user", "add", "me", "--password-stdin"], env, cwd=place, stdin="a long password\n")
        assert made.returncode == 0, made.stderr
        done = subprocess.run(
            ["bash", "-c", _script(running.url, shlex.join(loaded_python(env)))],
            env=env,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    heads = [code.splitlines()[0] for language, code in BLOCKS if language in ("sh", "python")]
    parts = done.stdout.split(MARK)[:-1]
    assert len(parts) == len(heads)
    return dict(zip(heads, parts, strict=True))


@pytest.fixture
def of(printed: dict[str, str]) -> Callable[[str], str]:
    """What the block printed whose first line has these words."""

    def find(words: str) -> str:
        (text,) = [text for head, text in printed.items() if words in head]
        return text

    return find


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_queue_answers_a_file_of_questions(of: Callable[[str], str]) -> None:
    text = of("printf '%s\\n' '\"What is the capital")
    answers = json_lines(text)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert answers[0]["response"]["text"] == "Paris"
    assert re.search(r"^job_\w+: succeeded, 3/3$", text, re.MULTILINE)


def test_http_tells_of_a_job_until_its_end(of: Callable[[str], str]) -> None:
    text = of("job=$(ask $SAGE_URL/tasks/generate")
    assert "event: end\n" in text
    view, result = json_lines(text)
    assert (view["kind"], view["progress"]["total"]) == ("generate", 1)
    assert result["response"]["text"] == "Paris"


def test_programs_get_handles_and_results(printed: dict[str, str]) -> None:
    service, client, pipeline, _, batch, _ = [
        printed[code.splitlines()[0]] for kind, code in BLOCKS if kind == "python"
    ]
    assert "fr Paris\n" in service
    assert "Rome" in client
    assert "Paris" in pipeline
    assert "completed 4 of 4\n" in batch
    assert [line.split()[0] for line in batch.splitlines() if line.startswith("q")] == ["q0", "q1", "q2", "q3"]


def test_a_cancelled_job_is_retried_to_its_end(of: Callable[[str], str]) -> None:
    text = of("seq 40")
    assert re.search(r"^job_\w+: (cancelled|cancelling)$", text, re.MULTILINE)
    assert re.search(r"^job_\w+: succeeded, 40/40$", text, re.MULTILINE)


def test_what_cannot_be_right_is_refused(of: Callable[[str], str]) -> None:
    assert of('echo \'{"prompt"').strip() == "refused with status 1"


def test_ingest_and_evaluate(of: Callable[[str], str]) -> None:
    assert "The base on the moon is called Selene." in of("printf 'The base on the moon")
    text = of("cat > evaluation.json")
    assert re.search(r"^job_\w+: succeeded, 2/2$", text, re.MULTILINE)
    assert re.search(r"^gemma-3-270m +1\.000 ", text, re.MULTILINE)


def test_a_snapshot_is_stored_and_restored(of: Callable[[str], str]) -> None:
    text = of("snapshot.json")
    assert re.search(r"^job_\w+: succeeded", text, re.MULTILINE)
    assert "moon-copy" in text


def test_the_configurations_are_good(tmp_path: Path) -> None:
    found = [code for language, code in BLOCKS if language == "yaml"]
    assert len(found) == 3
    for code in found:
        secret = base64.b64encode(os.urandom(32)).decode()
        Settings.model_validate(
            {**yaml.safe_load(code.replace("${SAGE_WEBHOOK_SECRET}", secret)), "data_dir": tmp_path}
        )


def test_the_receiver_knows_our_webhooks() -> None:
    names: dict[str, Any] = {}
    exec(next(code for language, code in BLOCKS if language == "python" and "def is_ours" in code), names)
    secret, body = "whsec_" + base64.b64encode(b"k" * 32).decode(), b'{"type": "job.succeeded"}'

    def headers(at: float) -> dict[str, str]:
        signed = f"msg_1.{at:.0f}.".encode() + body
        signature = base64.b64encode(hmac.digest(b"k" * 32, signed, hashlib.sha256)).decode()
        return {"webhook-id": "msg_1", "webhook-timestamp": f"{at:.0f}", "webhook-signature": f"v1,xx v1,{signature}"}

    is_ours = names["is_ours"]
    assert is_ours(secret, headers(time.time()), body)
    assert not is_ours(secret, headers(time.time() - 3600), body)
    assert not is_ours(secret, headers(time.time()), body + b" ")
