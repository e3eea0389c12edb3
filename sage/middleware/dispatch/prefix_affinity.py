"""Which deployment has the beginning of a conversation in its cache."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import orjson

_MOST = 10_000
_LIFETIME = 1800.0
"""Seconds; servers drop an older prefix from their caches."""


class Prefixes:
    """Remembers which deployment answered which messages; the next turn of a conversation begins with them.

    Only hashes are stored (Python's own, salted for each process), at most 10,000 for half an hour.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deployments: OrderedDict[int, tuple[str, float]] = OrderedDict()

    def find(self, model: str, messages: Any) -> str | None:
        """The deployment that answered the conversation's previous turn."""
        answered = _last_answer(messages)
        key = _hash(model, messages[:answered]) if answered else None
        entry = self._deployments.get(key) if key is not None else None
        if entry is None or self._clock() - entry[1] > _LIFETIME:
            return None
        return entry[0]

    def remember(self, model: str, messages: Any, deployment: str) -> None:
        """``deployment`` has answered ``messages``."""
        key = _hash(model, messages) if isinstance(messages, list) else None
        if key is None:
            return
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


def _hash(model: str, messages: list[Any]) -> int | None:
    try:
        return hash((model, *(hash(orjson.dumps(message)) for message in messages)))
    except orjson.JSONEncodeError:  # nested too deeply: it is refused elsewhere
        return None
