"""What a GGUF file says of itself in its head, read without loading it: for what a model can do and what it takes.

Source: ggml's *GGUF* specification (keys, types; little-endian).
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SEARCHED = 64 * 2**20
"""The head of a file with a vocabulary of 262,144 tokens takes 10 MiB."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_NO_POOLING = 0
_BYTES_OF_CACHE = 2
"""llama.cpp keeps each number of its key-value cache as a 16-bit float."""


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The facts; zero or none for what the file does not say."""

    size: int
    """Bytes."""
    architecture: str = ""
    template: str | None = None
    """Its chat template, Jinja."""
    vocabulary: int = 0
    """Tokens that it knows."""
    pooling: bool = False
    """It says how one vector is made of a text's tokens."""
    cache: int = 0
    """Bytes of key-value cache for each token of context."""

    @property
    def predicts(self) -> bool:
        """It was made to say the next token, so that llama.cpp works out the whole vocabulary's chances."""
        return not any(word in self.architecture for word in ("bert", "embedding", "t5encoder"))


def read_gguf(path: Path) -> GGUFFile | None:
    """None if there is no such file, or it is no GGUF file."""
    try:
        with path.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as data:
            if data[:4] != b"GGUF":
                return None
            architecture = str(_value(data, "general.architecture") or "")
            template = _value(data, "tokenizer.chat_template")
            vocabulary = _value(data, "tokenizer.ggml.tokens")
            return GGUFFile(
                size=len(data),
                architecture=architecture,
                template=template if isinstance(template, str) else None,
                vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
                pooling=_value(data, f"{architecture}.pooling_type") not in (None, _NO_POOLING),
                cache=_cache(data, architecture),
            )
    except (OSError, ValueError, struct.error):  # ValueError: an empty file cannot be mapped
        return None


def _cache(data: mmap.mmap, architecture: str) -> int:
    def number(key: str) -> int:
        value = _value(data, f"{architecture}.{key}")
        return value if isinstance(value, int) else 0

    if "bert" in architecture:
        return 0
    heads = number("attention.head_count") or 1
    head = number("embedding_length") // heads
    key, value = number("attention.key_length") or head, number("attention.value_length") or head
    return number("block_count") * (number("attention.head_count_kv") or heads) * (key + value) * _BYTES_OF_CACHE


def _value(data: mmap.mmap, key: str) -> Any:
    """The value under ``key``, an array's length; none if it is not there.

    The key is searched for, its length before it: going through all that stands before it means going through the
    vocabulary text by text.
    """
    mark = struct.pack("<Q", len(key)) + key.encode()
    place = data.find(mark, 0, _SEARCHED)
    if place < 0:
        return None
    place += len(mark)
    (kind,) = struct.unpack_from("<I", data, place)
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, place + 4)[0]
    if kind == _ARRAY:
        return struct.unpack_from("<Q", data, place + 8)[0]
    if kind != _STRING:
        return None
    (length,) = struct.unpack_from("<Q", data, place + 4)
    return data[place + 12 : place + 12 + min(length, _SEARCHED)].decode("utf-8", "replace")
