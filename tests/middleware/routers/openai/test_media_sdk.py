"""Sounds, images and moderations with OpenAI's own SDK, over real HTTP, before an upstream that checks bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from media_upstream import PICTURE, SOUND, MediaUpstream, events, sound, whole
from running_gateway import Running, run_gateway
from waiting import wait_until

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times

RECORDING = b"".join(bytes((i * 7 + row) % 256 for i in range(256)) for row in range(256)) * 48  # 3 MiB
NAMES = ("whisper", "gpt-4o-transcribe", "tts", "image", "sized", "moderator")
PRICES = {
    "up/whisper": {"per_audio_minute": 0.006},
    "up/gpt-4o-transcribe": {"input": 2.5, "output": 10, "audio": 6},
    "up/tts": {"characters": 15},
    "up/image": {"input": 5, "image": 10, "output": 40},
    "up/sized": {"per_image": 1, "image_sizes": {"hd": 2, "1024x1792": 3, "hd/1024x1792": 5, "2k": 7}},
}


@pytest.fixture(scope="module")
def up() -> Iterator[MediaUpstream]:
    with MediaUpstream() as upstream:
        yield upstream


def settings_for(up: MediaUpstream, data_dir: Path, **llm: Any) -> Settings:
    provider = {"kind": "openai", "api_key": "sk-upstream", "base_url": up.url}
    models = {name: {"deployments": [{"provider": "up", "model": f"their-{name}"}]} for name in NAMES}
    models["twice"] = {"deployments": [{"provider": "up", "model": "one"}], "fallbacks": ["whisper"]}
    models["hasty"] = {"deployments": [{"provider": "hasty", "model": "h"}], "retries": 0}
    models["gone"] = {"deployments": [{"provider": "gone", "model": "g"}], "fallbacks": ["whisper"]}
    models["here"] = {"deployments": [{"provider": "ollama", "model": "m"}]}
    providers = {"up": provider, "ollama": {"base_url": "http://127.0.0.1:9"}}
    providers["hasty"] = {**provider, "timeouts": {"first_byte": 0.3, "total": 0.6}}
    providers["gone"] = {**provider, "base_url": "http://127.0.0.1:9/v1"}
    prices = {name.replace("/", "/their-"): price for name, price in PRICES.items()}
    data = {"data_dir": data_dir, "api": {"port": 0, "access_log": False}, "budgets": {}}
    return Settings.model_validate({**data, "llm": {"providers": providers, "models": models, "prices": prices, **llm}})


@pytest.fixture(scope="module", params=["builtin", "aiohttp"])
def running(
    request: pytest.FixtureRequest, up: MediaUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with run_gateway(settings_for(up, tmp_path_factory.mktemp("data"), transport=request.param)) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def fresh(up: MediaUpstream) -> None:
    up.reset()


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, timeout=20) as sdk:
        yield sdk


@pytest.mark.proves("openai", "speech", "SDK at the gateway")
def test_speech_comes_as_it_is_made(client: openai.OpenAI, up: MediaUpstream, running: Running) -> None:
    gate = threading.Event()
    up.handler = lambda _: sound(gate=gate)
    heard = b""
    with client.audio.speech.with_streaming_response.create(model="tts", input="Hello you", voice="alloy") as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        for piece in answer.iter_bytes(4096):
            heard += piece
            if len(heard) == len(SOUND) // 2:
                gate.set()  # so the first half has come while the upstream held the second back
    assert hashlib.sha256(heard).digest() == hashlib.sha256(SOUND).digest()
    assert up.requests[0].body == {"model": "their-tts", "input": "Hello you", "voice": "alloy"}
    assert up.requests[0].headers["authorization"] == "Bearer sk-upstream"


def test_events_of_speech(client: openai.OpenAI, running: Running) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts", input="Hello", voice="alloy", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kinds = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert kinds == ["speech.audio.delta", "speech.audio.done"]


@pytest.mark.proves("openai", "transcriptions")
@pytest.mark.parametrize("response_format", ["json", "verbose_json", "text", "srt", "vtt"])
def test_transcriptions(client: openai.OpenAI, up: MediaUpstream, response_format: Any) -> None:
    file = ('talk "1".mp3', RECORDING, "audio/mpeg")
    answer = client.audio.transcriptions.create(
        model="whisper", file=file, response_format=response_format, timestamp_granularities=["word", "segment"]
    )
    text = answer if isinstance(answer, str) else answer.text
    assert text.strip() == "hello there"
    [sent] = up.requests
    assert sent.fields["model"] == "their-whisper"
    assert [p.text for p in sent.parts if p.name == "timestamp_granularities[]"] == [b"word", b"segment"]
    [part] = sent.files
    assert (part.name, part.content_type) == ("file", "audio/mpeg")
    assert part.sha256 == hashlib.sha256(RECORDING).hexdigest()


def test_a_transcript_as_events(client: openai.OpenAI, up: MediaUpstream) -> None:
    stream = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", RECORDING), stream=True)
    said = list(stream)
    assert [each.type for each in said] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert said[-1].text == "hello there"
    assert said[-1].usage.input_tokens == 40
    assert up.requests[0].fields == {"model": "their-gpt-4o-transcribe", "stream": "true"}


def test_translations(client: openai.OpenAI, up: MediaUpstream) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):  # the SDK's word for the route
        answer = client.audio.translations.create(model="whisper", file=("a.wav", b"RIFF"))
    assert answer.text == "hello there"
    assert up.requests[0].path == "/v1/audio/translations"
    # It was known as a whole, so its length is, too.
    assert "transfer-encoding" not in up.requests[0].headers


@pytest.mark.proves("openai", "image generation")
def test_images(client: openai.OpenAI, up: MediaUpstream) -> None:
    answer = client.images.generate(model="image", prompt="a lighthouse", n=2, size="1024x1024", quality="low")
    assert answer.data is not None
    assert [each.b64_json for each in answer.data] == [PICTURE] * 2
    assert up.requests[0].body["model"] == "their-image"
    parts = list(client.images.generate(model="image", prompt="a lighthouse", stream=True, partial_images=1))
    assert [each.type for each in parts] == ["image_generation.partial_image", "image_generation.completed"]
    assert parts[0].b64_json == PICTURE


def test_edits_with_several_images_and_a_mask(client: openai.OpenAI, up: MediaUpstream) -> None:
    images = [("a.png", RECORDING[:70_000], "image/png"), ("b.png", RECORDING[5:90_000], "image/png")]
    answer = client.images.edit(model="image", image=images, mask=("m.png", b"mask", "image/png"), prompt="more", n=2)
    assert answer.data is not None
    assert len(answer.data) == 2
    sent = up.requests[0]
    assert [part.name for part in sent.files] == ["image[]", "image[]", "mask"]
    assert [part.size for part in sent.files] == [70_000, 89_995, 4]
    assert sent.fields == {"model": "their-image", "prompt": "more", "n": "2"}
    stream = client.images.edit(model="image", image=images[0], prompt="more", stream=True)
    assert [each.type for each in stream] == ["image_edit.partial_image", "image_edit.completed"]
    with pytest.warns(DeprecationWarning, match="deprecated"):  # the SDK's word for the route
        assert client.images.create_variation(model="image", image=images[0]).data


def test_edits_as_a_json(running: Running, up: MediaUpstream) -> None:
    body = {"model": "image", "prompt": "more", "images": [{"image_url": f"data:image/png;base64,{PICTURE}"}]}
    assert running.post("/v1/images/edits", body).status_code == 200
    assert up.requests[0].body == {**body, "model": "their-image"}
    elsewhere = {**body, "images": [{"image_url": "http://169.254.169.254/x.png"}]}
    refused = running.post("/v1/images/edits", elsewhere)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "images[0].image_url")


@pytest.mark.proves("openai", "moderations")
def test_moderations(client: openai.OpenAI, up: MediaUpstream) -> None:
    answer = client.moderations.create(model="moderator", input=["I like trains."])
    assert answer.model == "moderator"
    assert answer.results[0].flagged is False
    assert up.requests[0].body == {"model": "their-moderator", "input": ["I like trains."]}


def test_what_calls_have_used_and_cost(client: openai.OpenAI, running: Running) -> None:
    def cost() -> Any:
        row = running.get("/usage/requests?limit=1").json()["requests"][0]
        return row["cost"], row["prompt_tokens"], row["completion_tokens"]

    client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"))
    assert wait_until(lambda: cost() == (0.0091, 0, 0))  # 91 of the 90.2 seconds, at 0.006 a minute
    client.audio.speech.create(model="tts", input="x" * 200, voice="alloy")
    assert wait_until(lambda: cost() == (0.003, 0, 0))
    client.images.generate(model="image", prompt="a", n=1)
    assert wait_until(lambda: cost() == (round((12 * 5 + 8 * 10 + 100 * 40) / 1e6, 9), 20, 100))
    list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"RIFF"), stream=True))
    assert wait_until(lambda: cost() == (round((40 * 6 + 3 * 10) / 1e6, 9), 40, 3))
    # The text alone does not say how long the recording was: the cost is not known, rather than nothing.
    client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"), response_format="text")
    assert wait_until(lambda: cost() == (None, 0, 0))


def test_images_are_priced_by_what_is_asked_for(client: openai.OpenAI, running: Running, up: MediaUpstream) -> None:
    """By an upstream that counts no tokens."""
    up.handler = lambda _: whole("application/json", b'{"created": 1, "data": [{"url": "a"}, {"url": "b"}]}')
    asked: list[dict[str, Any]] = [
        {},
        {"size": "512x512", "quality": "standard"},
        {"quality": "hd"},
        {"size": "1024x1792"},
        {"size": "1024x1792", "quality": "hd"},
        {"extra_body": {"resolution": "2k"}},
        {"size": "x" * 500, "quality": "HD!"},
    ]
    for fields, usd in zip(asked, (1, 1, 2, 3, 5, 7, 1), strict=True):
        client.images.generate(model="sized", prompt="a", n=2, **fields)

        def cost() -> Any:
            return running.get("/usage/requests?limit=1&model=sized").json()["requests"][0]["cost"]

        assert wait_until(lambda usd=usd: cost() == 2 * usd), (fields, cost())


class SlowForm:
    """A form that a test sends by hand, over a connection of its own."""

    def __init__(self, running: Running, path: str = "/v1/audio/transcriptions") -> None:
        host, port = running.url.removeprefix("http://").split(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=20)
        self.connection.putrequest("POST", path)
        for name, value in running.headers().items():
            self.connection.putheader(name, value)
        self.connection.putheader("Content-Type", "multipart/form-data; boundary=abc")
        self.connection.putheader("Transfer-Encoding", "chunked")
        self.connection.endheaders()

    def send(self, data: bytes) -> None:
        self.connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def field(self, name: str, value: str) -> None:
        self.send(f'--abc\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())

    def file(self, data: bytes, name: str = "file") -> None:
        self.send(f'--abc\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + data)

    def end(self) -> tuple[int, dict[str, Any]]:
        self.send(b"\r\n--abc--\r\n")
        return self.answer(end=True)

    def answer(self, *, end: bool = False) -> tuple[int, dict[str, Any]]:
        if end:
            self.connection.send(b"0\r\n\r\n")
        response = self.connection.getresponse()
        body = response.read()
        self.connection.close()
        return response.status, json.loads(body)


def test_the_upstream_sees_the_first_bytes_before_the_client_has_sent_the_last(
    running: Running, up: MediaUpstream
) -> None:
    form = SlowForm(running)
    form.field("model", "whisper")
    form.file(RECORDING[:1000])
    sent = up.wait_request()
    assert sent.begun.wait(10)
    assert not sent.ended.is_set()
    form.send(RECORDING[1000:])
    form.send(b"\r\n")
    form.field("language", "en")
    form.send(b"--abc--\r\n")
    status, answer = form.answer(end=True)
    assert (status, answer["text"]) == (200, "hello there")
    assert sent.files[0].sha256 == hashlib.sha256(RECORDING).hexdigest()
    assert sent.fields == {"model": "their-whisper", "language": "en"}


def test_a_model_that_comes_after_the_file(running: Running, up: MediaUpstream) -> None:
    """As in the first example of OpenAI's documentation (curl), and from its SDK for Node."""
    form = SlowForm(running)
    form.file(RECORDING)
    form.send(b"\r\n")
    form.field("response_format", "json")
    form.field("model", "whisper")
    form.send(b"--abc--\r\n")
    assert form.answer(end=True)[0] == 200
    [sent] = up.requests
    assert sent.fields == {"response_format": "json", "model": "their-whisper"}
    assert sent.files[0].sha256 == hashlib.sha256(RECORDING).hexdigest()


def test_another_deployment_gets_what_was_kept(running: Running, up: MediaUpstream) -> None:
    up.refuse = [503]
    form = SlowForm(running)
    form.field("model", "twice")
    form.file(RECORDING[:200_000])
    up.wait_request(2)
    form.send(RECORDING[200_000:])
    assert form.end()[0] == 200
    last = up.requests[-1]
    assert last.fields["model"] == "their-whisper"
    assert last.files[0].sha256 == hashlib.sha256(RECORDING).hexdigest()


def test_no_other_deployment_gets_half_a_recording(running: Running, up: MediaUpstream) -> None:
    up.handler = lambda sent: whole("application/json", b'{"error": {"message": "down"}}', 503)
    form = SlowForm(running)
    form.field("model", "twice")
    form.file(RECORDING)  # more than is kept
    status, answer = form.end()
    assert status in (502, 503), answer
    assert len(up.requests) == 1


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [("model", "whisper", "model"), ("models[]", "whisper", "models[]"), ("file_url", "http://10.0.0.1/a", "file_url")],
)
def test_what_comes_too_late_or_is_not_allowed(
    running: Running, up: MediaUpstream, name: str, value: str, param: str
) -> None:
    form = SlowForm(running)
    form.field("model", "whisper")
    form.file(RECORDING[:5000])
    sent = up.wait_request()
    form.send(b"\r\n")
    form.field(name, value)
    form.send(b"--abc\r\n")
    status, answer = form.answer()
    assert (status, answer["error"]["param"]) == (400, param)
    assert sent.left.wait(10)  # it never saw the end of the form
    assert not sent.ended.is_set()


def test_a_client_that_leaves_in_the_middle(running: Running, up: MediaUpstream) -> None:
    form = SlowForm(running)
    form.field("model", "whisper")
    form.file(RECORDING)
    sent = up.wait_request()
    assert sent.begun.wait(10)
    form.connection.sock.shutdown(socket.SHUT_RDWR)
    form.connection.close()
    assert sent.left.wait(10)


def test_an_upstream_that_does_not_read_holds_the_client_back(running: Running, up: MediaUpstream) -> None:
    up.may_read.clear()
    form = SlowForm(running)
    form.field("model", "whisper")
    form.file(b"")
    form.connection.sock.settimeout(0.5)
    taken = 0
    with contextlib.suppress(TimeoutError):
        while taken < 24 * 2**20:
            form.send(bytes(2**18))
            taken += 2**18
    assert taken < 24 * 2**20  # buffers of sockets, of both sides, and nothing of the gateway's own
    form.connection.close()
    up.may_read.set()


@pytest.mark.proves("ollama", "speech", "transcriptions", "image generation", "moderations", refused=True)
def test_limits_and_errors(running: Running, up: MediaUpstream, client: openai.OpenAI) -> None:
    files = {"file": ("a.wav", io.BytesIO(bytes(27 * 2**20)))}
    large = running.post("/v1/audio/transcriptions", data={"model": "whisper"}, files=files)
    assert large.status_code == 413
    assert "llm.limits.max_audio_bytes" in large.json()["error"]["message"]
    without = running.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"RIFF")})
    assert (without.status_code, without.json()["error"]["param"]) == (400, "model")
    no_file = running.post("/v1/audio/transcriptions", files={"model": (None, "whisper")})
    assert (no_file.status_code, no_file.json()["error"]["param"]) == (400, "file")
    no_form = running.post("/v1/audio/transcriptions", {"model": "whisper"})
    assert (no_form.status_code, no_form.json()["error"]["code"]) == (400, "content_type")
    for call in (
        lambda: client.audio.speech.create(model="here", input="x", voice="alloy"),
        lambda: client.audio.transcriptions.create(model="here", file=("a.wav", b"RIFF")),
        lambda: client.images.generate(model="here", prompt="x"),
        lambda: client.moderations.create(model="here", input="x"),
    ):
        with pytest.raises(openai.BadRequestError, match="the provider 'ollama' has no") as caught:
            call()
        assert caught.value.code == "unsupported_operation"
    assert up.requests == []
    key = running.new_key(name="narrow", scopes=["generate"], models=["tts"])
    refused = running.post(
        "/v1/audio/transcriptions", key=key, data={"model": "whisper"}, files={"file": ("a.wav", b"RIFF")}
    )
    assert refused.status_code == 403


def test_an_error_of_the_upstream(client: openai.OpenAI, up: MediaUpstream) -> None:
    said = b'{"error": {"message": "no such voice", "param": "voice", "code": "bad_voice"}}'
    up.handler = lambda _: whole("application/json", said, 400)
    with pytest.raises(openai.BadRequestError, match="no such voice") as caught:
        client.audio.speech.create(model="tts", input="x", voice="none")
    assert caught.value.code == "bad_voice"
    up.handler = lambda _: whole("application/json", said)  # some say it with the status 200
    with pytest.raises(openai.APIStatusError):
        client.images.generate(model="image", prompt="x")


def test_a_stream_that_breaks_says_so(running: Running, up: MediaUpstream) -> None:
    up.handler = lambda _: events({"type": "transcript.text.delta", "delta": "hel"}, cut=True)
    fields = {"model": "gpt-4o-transcribe", "stream": "true"}
    answer = running.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.wav", b"RIFF")})
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert json.loads(lines[0].removeprefix("data: "))["delta"] == "hel"
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "upstream_broken"


def test_a_sound_that_breaks_is_cut_off(running: Running, up: MediaUpstream) -> None:
    async def broken(_: Any) -> Any:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: 100\r\n\r\nRIFF"

    up.handler = broken
    with pytest.raises(requests.RequestException):
        running.post("/v1/audio/speech", {"model": "tts", "input": "x", "voice": "alloy"})


def test_a_client_that_leaves_while_it_hears(running: Running, up: MediaUpstream) -> None:
    up.handler = lambda _: sound(gate=threading.Event())
    answer = running.post("/v1/audio/speech", {"model": "tts", "input": "x", "voice": "alloy"}, stream=True)
    assert next(answer.iter_content(16))
    began = time.monotonic()
    answer.close()
    wait_until(lambda: running.get("/metrics").text)  # the gateway goes on
    assert up.requests[0].path == "/v1/audio/speech"
    assert time.monotonic() - began < 10


def test_budgets_reserve_before_and_are_charged_after(running: Running, up: MediaUpstream) -> None:
    budget = {"usd": 0.02, "window": "total", "hard": True}
    key = running.post("/auth/keys", {"name": "poor", "scopes": ["generate"], "budget": budget}).json()["key"]
    refused = running.post("/v1/images/generations", {"model": "image", "prompt": "a"}, key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    files = {"file": ("a.wav", bytes(2 * 2**20))}  # nine minutes, if they are no better than 32 kbit/s
    long = running.post("/v1/audio/transcriptions", key=key, data={"model": "whisper"}, files=files)
    assert (long.status_code, long.json()["error"]["code"]) == (429, "budget_exceeded")
    assert up.requests == []
    speech = {"model": "tts", "input": "x" * 1000, "voice": "a"}  # 0.015 dollars
    assert running.post("/v1/audio/speech", speech, key=key).status_code == 200
    assert wait_until(lambda: running.post("/v1/audio/speech", speech, key=key).status_code == 429)
    assert len(up.requests) == 1


def test_budgets_reserve_by_the_size_of_an_image(running: Running, up: MediaUpstream) -> None:
    budget = {"usd": 0.5, "window": "total", "hard": True}
    key = running.post("/auth/keys", {"name": "painter", "scopes": ["generate"], "budget": budget}).json()["key"]

    def painted(size: str) -> int:
        body = {"model": "image", "prompt": "a", "size": size}
        return running.post("/v1/images/generations", body, key=key).status_code

    assert painted("2880x2880") == 429  # 23,718 tokens for 40 dollars a million
    assert painted("1024x1024") == 200


def test_texts_are_kept_where_a_team_wants_it_and_sounds_never(running: Running, up: MediaUpstream) -> None:
    tenant = running.get("/auth/me").json()["tenant"]
    assert running.request("PATCH", f"/auth/teams/{tenant}", json={"capture": {"prompts": True}}).status_code == 200
    kept = running.edge.app.state.gateway.captures
    wait_until(lambda: tenant in kept.settings)
    try:
        form = {"data": {"model": "whisper", "prompt": "names: Ann"}, "files": {"file": ("a.wav", b"RIFF")}}
        heard = running.post("/v1/audio/transcriptions", headers={"x-request-id": "heard-1"}, **form)
        spoken = {"model": "tts", "input": "a secret", "voice": "a"}
        running.post("/v1/audio/speech", spoken, headers={"x-request-id": "spoken-1"})
        assert heard.status_code == 200
        [text] = wait_for(running, "heard-1")
        assert (text["prompt"], text["answer"]) == ("names: Ann", "hello there")
        [text] = wait_for(running, "spoken-1")
        assert (text["prompt"], text["answer"]) == ("a secret", "")
    finally:
        running.request("PATCH", f"/auth/teams/{tenant}", json={"capture": {"prompts": False}})


def wait_for(running: Running, request_id: str) -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = []

    def kept() -> bool:
        texts[:] = running.get(f"/usage/requests/{request_id}/texts").json()["texts"]
        return bool(texts)

    wait_until(kept, 10)
    return texts


async def never(_: Any) -> Any:
    await asyncio.sleep(60)
    yield b""


def test_deadlines(running: Running, up: MediaUpstream) -> None:
    up.handler = never
    spoken = running.post("/v1/audio/speech", {"model": "hasty", "input": "x", "voice": "a"})
    assert (spoken.status_code, spoken.json()["error"]["code"]) == (504, "read_timeout")
    files = {"file": ("a.wav", b"RIFF")}
    heard = running.post("/v1/audio/transcriptions", data={"model": "hasty"}, files=files)
    assert (heard.status_code, heard.json()["error"]["code"]) == (504, "total_timeout")  # silence is no fault here
    form = SlowForm(running)
    form.field("model", "hasty")
    form.file(RECORDING)  # and no more of it
    status, answer = form.answer()
    assert (status, answer["error"]["code"]) == (504, "total_timeout")
    assert up.requests[-1].left.wait(10)


def test_a_form_of_which_nothing_was_sent_goes_elsewhere(running: Running, up: MediaUpstream) -> None:
    form = SlowForm(running)
    form.field("model", "gone")
    form.file(RECORDING)
    assert form.end()[0] == 200
    [sent] = up.requests
    assert sent.files[0].sha256 == hashlib.sha256(RECORDING).hexdigest()


def test_a_form_names_models_that_may_answer_instead(running: Running, up: MediaUpstream) -> None:
    up.refuse = [503]
    data = {"model": "tts", "models[]": ["whisper"], "prompt": "Ann"}
    answer = running.post("/v1/audio/transcriptions", data=data, files={"file": ("a.wav", b"RIFF")})
    assert (answer.status_code, answer.headers["x-sage-attempts"]) == (200, "2")
    assert up.requests[-1].fields == {"model": "their-whisper", "prompt": "Ann"}
