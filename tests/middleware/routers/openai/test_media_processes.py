"""Sounds and images at a real `sage serve --workers 2`: at either process, and in little memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from footprint import footprint
from gateway_process import root_key
from media_upstream import SOUND, MediaUpstream, sound
from sage_process import environment, serving
from worker_family import WorkerFamily

pytestmark = pytest.mark.slow
LARGE = 60 * 2**20
HEAD = (
    b'--abc\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--abc\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
)
TAIL = b"\r\n--abc--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=abc"}


@pytest.fixture(scope="module")
def up() -> Iterator[MediaUpstream]:
    with MediaUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def family(up: MediaUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFamily]:
    directory: Path = tmp_path_factory.mktemp("media")
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}
    names = ("whisper", "tts", "image")
    models = {name: {"deployments": [{"provider": "up", "model": f"their-{name}"}]} for name in names}
    llm = {"providers": {"up": provider}, "models": models, "limits": {"max_audio_bytes": "100MiB"}}
    config = directory / "config.yaml"
    api = {"port": 0, "workers": 2}
    config.write_text(yaml.safe_dump({"api": api, "llm": llm, "usage": {"published_prices": False}}))
    key = root_key(directory)
    with serving(["--config", str(config)], environment(directory / "data"), directory, timeout=60) as server:
        yield WorkerFamily(server, up, key, directory)  # type: ignore[arg-type]


@pytest.mark.parametrize("worker", [0, 1])
def test_either_process_answers(family: WorkerFamily, up: MediaUpstream, worker: int) -> None:
    up.reset()
    client = family.client(worker)
    gate = threading.Event()
    up.handler = lambda _: sound(gate=gate)
    response = client.begin("POST", "/v1/audio/speech", {"model": "tts", "input": "hi", "voice": "a"})
    assert response.getheader("content-type") == "audio/mpeg"
    first = response.read(len(SOUND) // 2)
    gate.set()
    assert first + response.read() == SOUND
    up.reset()
    answer = client.ask("POST", "/v1/images/generations", {"model": "image", "prompt": "a", "n": 2})
    assert len(answer.json["data"]) == 2
    told = client.ask("POST", "/v1/audio/transcriptions", HEAD + b"RIFF" + TAIL, **FORM)
    assert told.json["text"] == "hello there"
    assert up.requests[-1].fields == {"model": "their-whisper"}
    client.close()


@pytest.mark.parametrize("worker", [0, 1])
def test_a_large_recording_takes_no_memory(family: WorkerFamily, up: MediaUpstream, worker: int) -> None:
    up.reset()
    up.may_read.clear()
    client = family.client(worker)
    before = footprint(family.owner).memory
    connection = client.connection
    connection.putrequest("POST", "/v1/audio/transcriptions")
    headers = {"Authorization": f"Bearer {family.key}", "Content-Length": str(len(HEAD) + LARGE + len(TAIL)), **FORM}
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    digest, most = hashlib.sha256(), 0
    connection.send(HEAD)
    sent = up.wait_request()
    up.may_read.set()
    piece = bytes(range(256)) * 4096
    for number in range(LARGE // len(piece)):
        connection.send(piece)
        digest.update(piece)
        if number % 10 == 9:
            most = max(most, footprint(family.owner).memory - before)
    connection.send(TAIL)
    response = connection.getresponse()
    assert (response.status, b"hello there" in response.read()) == (200, True)
    assert sent.files[0].size == LARGE
    assert sent.files[0].sha256 == digest.hexdigest()
    assert most < 24 * 1024  # KiB, of all processes together
    client.close()
