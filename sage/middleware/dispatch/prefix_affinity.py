"""Which deployment has the beginning of a conversation in its cache."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

_MOST = 10_000
_LIFETIME = 1800.0
"""Seconds; servers drop an older prefix from their caches."""


class Prefixes:
    """Remembers which deployment answered which messages; the next turn of a conversation begins with them.

    Only hashes are stored (Python's own, salted for each process), at most 10,000 for half an hour. Several processes
    of one gateway tell each other what they remember (:meth:`share`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key: bytes | None = None
        self._news: dict[int, str] = {}
        """What was remembered here since the others were told."""
        self._deployments: OrderedDict[int, tuple[str, float]] = OrderedDict()

    def find(self, model: str, messages: Any) -> str | None:
        """The deployment that answered the conversation's previous turn."""
        answered = _last_answer(messages)
        key = _hash(model, messages[:answered], self._key) if answered else None
        entry = self._deployments.get(key) if key is not None else None
        if entry is None or self._clock() - entry[1] > _LIFETIME:
            return None
        return entry[0]

    def remember(self, model: str, messages: Any, deployment: str) -> None:
        """``deployment`` has answered ``messages``."""
        key = _hash(model, messages, self._key) if isinstance(messages, list) else None
        if key is None:
            return
        self._store(key, deployment)
        if self._key is not None and len(self._news) < _MOST:
            self._news[key] = deployment

    def share(self, key: bytes) -> None:
        """From now on hashes are the same in all processes that are given ``key``, of 32 random bytes."""
        self._key = key

    def news(self) -> dict[int, str]:
        """What was remembered here since this was last called, for the other processes."""
        news, self._news = self._news, {}
        return news

    def heard(self, news: Mapping[int, str]) -> None:
        """What another process has remembered."""
        for key, deployment in news.items():
            self._store(key, deployment)

    def _store(self, key: int, deployment: str) -> None:
        self._deployments[key] = deployment, self._clock()
        self._deployments.move_to_end(key)
        if len(self._deployments) > _MOST:
            self._deployments.popitem(last=False)


def _last_answer(messages: Any) -> int:
    """The index of the last answer among ``messages``; 0 if there is none."""
    if not isinstance(messages, list):
        return 0
    for index in range(len(messages) - 1, 0, -1):
        if isinstance(messages[index], dict) and messages[index].get("role") == "assistant":
            return index
    return 0


def _hash(model: str, messages: list[Any], key: bytes | None) -> int | None:
    try:
        if key is not None:
            digest = blake2b(model.encode(), digest_size=8, key=key)
            for message in messages:
                digest.update(orjson.dumps(message))
            return int.from_bytes(digest.digest())
        return hash((model, *(hash(orjson.dumps(message)) for message in messages)))
    except orjson.JSONEncodeError:  # nested too deeply: it is refused elsewhere
        return None
