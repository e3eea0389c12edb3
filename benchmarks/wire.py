"""What the load asks, the upstream answers and the load expects: one place, so that answers are checked whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

UPSTREAM_MODEL = "bench-upstream-large"
"""The upstream's own name for the model; callers of a gateway never see it."""

PUBLIC_MODEL = "bench"
UPSTREAM_KEY = "sk-upstream-of-the-benchmark"
FIRST_NUMBER = 10_000_000
"""Numbers of requests have eight digits, so that every request of a kind has the same length."""

_WISHES = re.compile(r"\b([a-z]+)=(\w+)")


@dataclass(frozen=True)
class Ask:
    """How a request is to be answered. It travels as words in the last message, which no gateway may change."""

    chunks: int = 0
    """Chunks of text in a stream; 0: an answer that does not stream."""
    burst: int = 8
    """Chunks that the upstream writes at once."""
    pause_ms: int = 5
    """Between two bursts."""
    wait_ms: int = 0
    """Before an answer that does not stream."""
    hold: bool = False
    """After its first burst the stream waits until somebody calls the upstream's ``/release``."""
    prompt: int = 0
    """Bytes of text in front of the question, in two languages."""
    english: bool = False
    """The text is plain ASCII: Python keeps it with one byte a character, which JSON reads and writes much faster."""
    image: int = 0
    """Bytes of an image in front of the question, before base64."""

    def words(self, crc: int | None) -> str:
        """The wishes as the upstream reads them; ``crc`` belongs to what stands in front of the question."""
        found = {"chunks": self.chunks, "burst": self.burst, "pause": self.pause_ms} if self.chunks else {}
        found |= {"wait": self.wait_ms} if self.wait_ms else {}
        found |= {"hold": 1} if self.hold else {}
        found |= {} if crc is None else {"crc": crc}
        return "".join(f" {name}={value}" for name, value in found.items())


def wishes(text: str) -> dict[str, int]:
    """The numbers in a last message by their names: ``n`` and what ``Ask.words`` wrote."""
    return {name: int(value) for name, value in _WISHES.findall(text) if value.isdigit()}


def usage(number: int) -> dict[str, int]:
    """The usage that belongs to the request of that number."""
    prompt, completion = number % 97 + 1, number % 89 + 1
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def answer(number: int) -> str:
    """The text that answers the request of that number."""
    return f"n={number}"


def piece(number: int | str, index: int) -> str:
    """The text of chunk ``index`` in the stream that answers that request."""
    return f"{number}:{index} "
