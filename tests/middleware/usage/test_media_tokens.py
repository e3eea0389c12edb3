"""How many tokens images and sounds of a request are taken for, by their real size."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.usage.estimates import estimate_prompt, upper_bound_prompt
from sage.middleware.usage.media_tokens import media_tokens

Image = pytest.importorskip("PIL.Image")


def picture(width: int, height: int, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def of_image(url: str, **fields: Any) -> tuple[int, int]:
    return media_tokens("image_url", {"url": url, **fields})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
    ],
)
def test_an_image_is_taken_by_its_size(kind: str, options: dict[str, Any]) -> None:
    # The examples of OpenAI's page on images: 1024 x 1024 has 4 tiles, 2048 x 4096 has 6.
    assert of_image(picture(1024, 1024, kind, **options)) == (765, 1399)
    assert of_image(picture(2048, 4096, kind, **options)) == (1105, 1600)
    assert of_image(picture(512, 300, kind, **options)) == (255, 255)
    assert of_image(picture(1024, 1024, kind, **options), detail="low") == (85, 85)


def test_what_says_nothing_of_its_size_is_taken_for_a_usual_one() -> None:
    url = picture(3000, 2000, "PNG")
    for unknown in ("https://example.com/a.png", "data:image/png;base64,", url[:40], "data:image/png;base64,@@@@", ""):
        assert of_image(unknown) == (500, 1600)
    for nonsense in (None, 7, [], {"url": None}):
        assert media_tokens("image_url", nonsense) == (500, 1600)
    source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
    assert media_tokens("source", source) == of_image(url)  # as Anthropic's clients write it


@given(st.binary(max_size=200), st.sampled_from(["image_url", "image", "source", "input_audio", "file"]))
def test_no_bytes_break_it(data: bytes, field: str) -> None:
    for head in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF....WEBPVP8X", b"RIFF....WAVE"):
        text = base64.b64encode(head + data).decode()
        for value in ({"url": f"data:x;base64,{text}"}, {"data": text}, text):
            usual, most = media_tokens(field, value)
            assert 0 <= usual <= most


def test_a_sound_is_taken_by_its_length() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(24_000)
        sound.writeframes(b"\0" * 48_000 * 5)
    data = base64.b64encode(file.getvalue()).decode()
    assert media_tokens("input_audio", {"data": data, "format": "wav"}) == (51, 161)  # five seconds and the head
    mp3 = base64.b64encode(b"\xff\xfb" + b"x" * 160_000).decode()
    usual, most = media_tokens("input_audio", {"data": mp3, "format": "mp3"})
    assert (usual, most) == (101, 2561)


def test_a_prompt_with_images_is_estimated_and_bounded_with_them() -> None:
    part = {"type": "image_url", "image_url": {"url": picture(1024, 1024, "PNG")}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part, part]}],
    }
    assert estimate_prompt(body) == 4 + 3 + 2 * 765
    assert 2 * 1399 < upper_bound_prompt(body) < 2 * 1399 + 100
