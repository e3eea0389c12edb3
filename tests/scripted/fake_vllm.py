"""Stands in for ``vllm serve`` where tests start one: parses its arguments, listens on ``--uds``, and echoes.

``python fake_vllm.py MODEL ARGUMENT…``. ``--notes FILE`` gets a line of JSON for each start: its arguments, its
environment, its pid and that of a child that made a session of its own. ``--misbehave`` says how:

- ``no-uds``: knows no ``--uds``, as old versions do; ``fails``, ``invalid``, ``mute``: ends, with more or less said;
  ``silent``: never serves;
- ``crashes``: ``POST /v1/completions`` ends it by SIGKILL; ``hangs-up``: closes its connection and lives;
  ``stubborn``: its child ignores SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

FAILURE = """\
INFO 11-22 21:00:00 [api_server.py:1] vLLM API server version 0.32.0
(EngineCore pid=7) ERROR 11-22 21:00:01 [core.py:9] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-22 21:00:01 [core.py:9] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 21:00:01 [core.py:9] ValueError: To serve at least one request, 9 GiB are needed.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

INVALID = """\
INFO 11-22 21:00:00 [api_server.py:1] vLLM API server version 0.32.0
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Sleep mode is not supported here. [type=value_error, input_value=ArgsKwargs((), {'model': ...})]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
FAILURES = {"fails": FAILURE, "invalid": INVALID, "mute": "Killed\n\n"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""
    crashes = False
    hangs_up = False
    adapters: dict[str, str] = {}  # noqa: RUF012 (one server a process)

    def do_GET(self) -> None:
        if self.path == "/health":
            return self._send(200, b"")
        if not self._knows_key():
            return self._send(401, b'{"error":"Unauthorized"}')
        names = [self.model, *self.adapters]
        return self._send(200, json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._knows_key():
            return self._send(401, b'{"error":"Unauthorized"}')
        if self.path == "/v1/completions" and self.crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.path == "/v1/completions" and self.hangs_up:
            self.close_connection = True
            return None
        if self.path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = body["lora_path"]
            return self._send(200, b"Success")
        if self.path == "/v1/unload_lora_adapter":
            self.adapters.pop(body["lora_name"], None)
            return self._send(200, b"Success")
        if body["model"] not in (self.model, *self.adapters):
            return self._send(404, b'{"error":{"message":"no such model","code":404}}')
        return self._send(200, json.dumps(self._chat(body)).encode())

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"{body['model']}: {body['messages'][-1]['content']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return {**head, "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}

    def _knows_key(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


def _daemon(stubborn: bool) -> int:
    """The pid of a child in a session of its own; a ``stubborn`` one ignores SIGTERM, as a worker that hangs would.

    Its environment is empty, as that of vLLM's workers seems to be once they have given themselves a name.
    """
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    return pid


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--notes")
    parser.add_argument("--misbehave", default="")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    if "no-uds" not in sys.argv:
        parser.add_argument("--uds")
    arguments, _ = parser.parse_known_args() if "--some-option" in sys.argv else (parser.parse_args(), [])
    if arguments.notes:
        note = {
            "argv": sys.argv[1:],
            "env": dict(os.environ),
            "pid": os.getpid(),
            "daemon": _daemon(arguments.misbehave == "stubborn"),
        }
        with open(arguments.notes, "a") as file:
            file.write(json.dumps(note) + "\n")
    if arguments.misbehave in FAILURES:
        sys.exit(FAILURES[arguments.misbehave])
    if arguments.misbehave == "silent":
        print("INFO loading, and loading", flush=True)
        time.sleep(600)
    Handler.model, Handler.crashes = arguments.served_model_name[0], arguments.misbehave == "crashes"
    Handler.hangs_up = arguments.misbehave == "hangs-up"
    server = (
        UnixServer(arguments.uds, Handler)
        if "uds" in arguments and arguments.uds
        else TcpServer((arguments.host, arguments.port), Handler)
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
