"""The requests of the load as bytes: small ones, long prompts and images, each with a place for its number."""

from __future__ import annotations

import base64
import itertools
import random
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from wire import Ask

_MARK = "@@@@@@@@"
_WORDS = (
    *("the", "model", "answers", "with", "tokens", "of", "a", "stream", "in", "which", "every", "def", "return {}:"),
    *("模型", "请求", "令牌", "café", "“quoted”", "naïve", "path/to/file", "42", "3.14", "2026-11-30", "10000000000"),
    *("line\n", '"', "\t"),
)


class Question:
    """A request whose number is put in place each time it is sent."""

    def __init__(self, head: str, body: dict[str, Any]) -> None:
        data = orjson.dumps(body)
        whole = f"{head}content-length: {len(data)}\r\n\r\n".encode() + data
        self._before, _, self._after = whole.rpartition(_MARK.encode())
        self._large = len(whole) > 16_384

    def parts(self, number: int) -> list[bytes]:
        """What is to be written; large ones in pieces, so that nothing large is copied."""
        if self._large:
            return [self._before, b"%d" % number, self._after]
        return [b"%b%d%b" % (self._before, number, self._after)]


def question(
    model: str, head: str, ask: Ask, wants_usage: bool, translate: Callable[[dict[str, Any]], dict[str, Any]]
) -> Question:
    """The question of ``ask`` after the lines of ``head``; in streams it may ask for usage.

    ``translate`` makes the body of that of a chat."""
    crc, messages = None, []
    if ask.prompt:
        text = _prose(ask.prompt, ask.english)
        crc = zlib.crc32(text.encode())
        messages.append({"role": "user", "content": text})
    if ask.image:
        data = _picture(ask.image)
        crc = zlib.crc32(data.encode())
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        messages.append({"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]})
    if not messages:
        about = "You are a helpful assistant. Answer with the number of the question."
        messages.append({"role": "system", "content": about})
    asked = f"What is the number of this question? n={_MARK}{ask.words(crc)}"
    body: dict[str, Any] = {
        "model": model,
        "messages": [*messages, {"role": "user", "content": asked}],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    if ask.chunks:
        body |= {"stream": True} | ({"stream_options": {"include_usage": True}} if wants_usage else {})
    return Question(head, translate(body))


@cache
def _prose(size: int, english: bool) -> str:
    """Text of about that many bytes of UTF-8, always the same: words of two languages, numbers, quotes, new lines."""
    chosen = random.Random(14)
    usable = [word for word in _WORDS if word.isascii() or not english]
    words = (chosen.choice(usable) for _ in itertools.count())
    counted = 0
    taken = []
    while counted < size:
        word = next(words)
        taken.append(word)
        counted += len(word.encode()) + 1
    return " ".join(taken)


@cache
def _picture(size: int) -> str:
    """That many bytes of a PNG's kind, in base64."""
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(14).randbytes(size - 8)).decode()
