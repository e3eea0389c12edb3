"""The other user: sends the same few requests all the time and measures how long each takes."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hostile.attack import Probe

ALWAYS = (
    Probe("me", "GET", "/auth/me"),
    Probe("chat", "POST", "/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}),
)
"""What no attack may stop."""
_PATIENCE = 30.0
"""Seconds that it waits for an answer."""


@dataclass
class Delays:
    """How one probe went."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def median(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else 0.0


class Bystander:
    """Each probe has a thread and a connection, which is kept."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    @contextmanager
    def working(self, probes: Sequence[Probe]) -> Iterator[Mapping[str, Delays]]:
        """Probes run within the block; what they saw, by their names, is complete after it."""
        seen = {probe.name: Delays() for probe in probes}
        over = threading.Event()
        threads = [
            threading.Thread(target=self._repeat, args=(probe, seen[probe.name], over), name=f"probe {probe.name}")
            for probe in probes
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _repeat(self, probe: Probe, seen: Delays, over: threading.Event) -> None:
        body = None if probe.body is None else json.dumps(probe.body).encode()
        connection = http.client.HTTPConnection(*self._address, timeout=_PATIENCE)
        while not over.is_set():
            began = time.perf_counter()
            try:
                connection.request(probe.method, probe.path, body, self._headers)
                response = connection.getresponse()
                text = response.read()
                if response.status != probe.status:
                    seen.failures.append(f"{response.status}: {text[:300].decode(errors='replace')}")
            except (OSError, http.client.HTTPException) as exc:
                seen.failures.append(repr(exc))
                connection.close()
            seen.seconds.append(time.perf_counter() - began)
            over.wait(probe.pause)
        connection.close()
