"""Open WebUI: its first admin signs up, sees the gateway's model, and chats with a tool that Open WebUI runs."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from ports import free_port

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ScriptedModel
from clients.test_connect_texts import texts_for

TOOL = '''
class Tools:
    def multiply(self, a: int, b: int) -> str:
        """
        Multiply two numbers.
        :param a: the first number
        :param b: the second number
        """
        return f"the product is {a * b}"
'''
QUIET = {
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ANONYMIZED_TELEMETRY": "false",
    "SCARF_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "true",
}


def wait_for_start(url: str, started: subprocess.Popen[bytes], log: Path) -> None:
    """Its first start makes a database; that takes some minutes on a slow disk."""
    end = time.monotonic() + 400
    while time.monotonic() < end:
        assert started.poll() is None, log.read_text()
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"Open WebUI has not started: {log.read_text()[-2000:]}")


@contextmanager
def serving(webui: Program, asked: Asked) -> Iterator[str]:
    """Its address, while it runs with the variables of the console's page *Connect*."""
    port = free_port()
    (part,) = texts_for(asked)["Open WebUI"]
    told = dict(re.findall(r"^export (\w+)=(.*)$", part["text"], re.MULTILINE))
    assert told.keys() == {"OPENAI_API_BASE_URL", "OPENAI_API_KEY", "ENABLE_OLLAMA_API"}
    variables = {**QUIET, **told, "DATA_DIR": str(webui.home), "WEBUI_SECRET_KEY": "only for this test"}
    url, log = f"http://127.0.0.1:{port}", webui.home / "log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [str(webui.path), "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=webui.project,
            env=webui.environment(variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_start(url, started, log)
        yield url
    finally:
        started.terminate()
        started.wait(30)


def test_open_webui_chats_with_a_tool(asked: Asked, program: Callable[[str], Program]) -> None:
    model = asked.use(ScriptedModel(lambda names: ("multiply", {"a": 6, "b": 7}) if "multiply" in names else None))
    with serving(program("open-webui"), asked) as url, requests.Session() as session:
        session.trust_env = False

        def post(path: str, body: dict[str, Any]) -> Any:
            answer = session.post(url + path, json=body, timeout=60)
            assert answer.ok, answer.text
            return answer.json()

        admin = {"name": "admin", "email": "admin@example.org", "password": "correct horse battery"}
        session.headers["Authorization"] = f"Bearer {post('/api/v1/auths/signup', admin)['token']}"
        listed = session.get(f"{url}/api/models", timeout=60).json()["data"]
        assert {"bench", "gemma-3-270m"} <= {each["id"] for each in listed}
        made = {"id": "multiply", "name": "Multiply", "content": TOOL, "meta": {"description": "Multiplies"}}
        post("/api/v1/tools/create", {**made, "access_control": {}})
        question = {"id": "question", "role": "user", "content": "What is 6 times 7?", "childrenIds": ["answer"]}
        asked_for = {"id": "answer", "role": "assistant", "content": "", "parentId": "question", "childrenIds": []}
        messages = {"question": {**question, "parentId": None}, "answer": asked_for}
        chat = {"title": "Sums", "models": ["bench"], "history": {"messages": messages, "currentId": "answer"}}
        chat_id = post("/api/v1/chats/new", {"chat": chat})["id"]
        body = {"model": "bench", "messages": [{"role": "user", "content": question["content"]}], "stream": True}
        place = {"chat_id": chat_id, "id": "answer", "session_id": "a-browser"}
        tools = {"tool_ids": ["multiply"], "params": {"function_calling": "native"}}
        post("/api/chat/completions", {**body, **place, **tools})
        answer: dict[str, Any] = {}
        for _ in range(60):
            seen = session.get(f"{url}/api/v1/chats/{chat_id}", timeout=60).json()
            answer = seen["chat"]["history"]["messages"]["answer"]
            if answer.get("done"):
                break
            time.sleep(0.5)
    assert DONE in answer["content"]
    assert model.results == ["the product is 42"]
