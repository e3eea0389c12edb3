"""Fixtures for tests of engines: requests to an engine, and waiting until its processes have ended."""

from __future__ import annotations

import json
import os
import select
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable

import pytest

from sage.middleware.providers.base import Endpoint


def _has_ended(pid: int, within: float) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select((handle,), (), (), within)[0])
    finally:
        os.close(handle)


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether all these processes have ended, waiting up to ``within`` seconds for each."""

    def all_gone(pids: Iterable[int], within: float = 15) -> bool:
        return all(_has_ended(pid, within) for pid in list(pids))

    return all_gone


@pytest.fixture
def get() -> Callable[..., tuple[int, object]]:
    """Status and JSON of a GET, or of a POST when there is a body; blocking."""

    def send(endpoint: Endpoint, path: str, body: object = None, key: str | None = None) -> tuple[int, object]:
        headers = {**endpoint.headers, "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(endpoint.base_url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, None

    return send
