"""Reads the head of a GGUF file without loading the model: its chat template, its vocabulary, its memory per token.

Source: ggml's *GGUF* specification (keys, types; little-endian).
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SEARCHED = 64 * 2**20
"""The head of a file with a vocabulary of 262,144 tokens takes 10 MiB."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_FIRST_PART = re.compile(r"(.+)-00001-of-(\d{5})(\.gguf)", re.IGNORECASE)
"""llama.cpp's name for the first file of a model that is split; it finds the others by their names."""
_NO_POOLING = 0
PROGRAM_MEMORY = 64 * 2**20
"""Bytes that an engine takes besides its model: Python, llama.cpp and its buffers."""
_LOGIT = 2 * 4
"""Bytes for one logit: a 32-bit float, computed and then copied."""
_BYTES_OF_CACHE = 2
"""llama.cpp keeps each number of its key-value cache as a 16-bit float."""


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The facts in the head; zero or ``None`` for what the file does not have."""

    size: int
    """Bytes, of all files if the model is split."""
    architecture: str = ""
    template: str | None = None
    """Its chat template, Jinja."""
    vocabulary: int = 0
    """The number of its tokens."""
    pooling: bool = False
    """The file says how one vector is made of a text's tokens."""
    cache: int = 0
    """Bytes of key-value cache for each token of context."""

    def memory(self, context: int, parallel: int, task: str) -> int:
        """An estimate of the bytes that an engine takes: the file, the key-value cache of all concurrent requests, and
        the program.

        ``embed`` and ``rerank`` compute a complete text at once: with a model that predicts tokens, this adds the
        logits of the whole vocabulary for each token of the context.
        """
        logits = 0 if task == "generate" or not self.predicts else _LOGIT * self.vocabulary * context
        return self.size + self.cache * context * parallel + logits + PROGRAM_MEMORY

    @property
    def predicts(self) -> bool:
        """The model predicts tokens, so llama.cpp computes the probabilities of the whole vocabulary."""
        return not any(word in self.architecture for word in ("bert", "embedding", "t5encoder"))


def read_gguf(path: Path) -> GGUFFile | None:
    """The head of the file; ``None`` if there is no such file or it is not GGUF."""
    try:
        with path.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as data:
            if data[:4] != b"GGUF":
                return None
            architecture = str(_value(data, "general.architecture") or "")
            template = _value(data, "tokenizer.chat_template")
            vocabulary = _value(data, "tokenizer.ggml.tokens")
            return GGUFFile(
                size=len(data) + _other_parts(path),
                architecture=architecture,
                template=template if isinstance(template, str) else None,
                vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
                pooling=_value(data, f"{architecture}.pooling_type") not in (None, _NO_POOLING),
                cache=_cache(data, architecture),
            )
    except (OSError, ValueError, struct.error):  # ValueError: an empty file cannot be mapped
        return None


def _other_parts(path: Path) -> int:
    """Bytes of the other files of a model that is split, of which ``path`` is the first."""
    split = _FIRST_PART.fullmatch(path.name)
    if split is None:
        return 0
    names = (f"{split[1]}-{number:05}-of-{split[2]}{split[3]}" for number in range(2, int(split[2]) + 1))
    return sum(part.stat().st_size for name in names if (part := path.with_name(name)).is_file())


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
    """The value under ``key``, or the length of an array; ``None`` if the key is missing.

    It searches for the bytes of the key with its length before them. To parse all that comes before the key would mean
    to parse the vocabulary, text by text.
    """
    mark = struct.pack("<Q", len(key)) + key.encode()
    offset = data.find(mark, 0, _SEARCHED)
    if offset < 0:
        return None
    offset += len(mark)
    (kind,) = struct.unpack_from("<I", data, offset)
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, offset + 4)[0]
    if kind == _ARRAY:
        return struct.unpack_from("<Q", data, offset + 8)[0]
    if kind != _STRING:
        return None
    (length,) = struct.unpack_from("<Q", data, offset + 4)
    return data[offset + 12 : offset + 12 + min(length, _SEARCHED)].decode("utf-8", "replace")
