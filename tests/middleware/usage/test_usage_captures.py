"""Prompts and answers are kept of teams that want it, redacted, for their owners; of others nothing is."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream, chat_chunk, usage_chunk

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES
from sage.middleware.usage.redaction import redacted

CHAT = "/v1/chat/completions"


def team(running: Running, name: str, capture: dict[str, Any] | None) -> dict[str, str]:
    """A team with a user and an owner; returns their keys."""
    accounts = running.accounts
    assert accounts is not None
    made = running.post("/auth/teams", {"name": name, **({"capture": capture} if capture is not None else {})})
    assert made.status_code == 201, made.text
    keys = {}
    for role in ("user", "owner"):
        accounts.users.add(f"{name}-{role}", "correct horse battery staple", role, name)
        keys[role] = accounts.keys.create_for(f"{name}-{role}", KeyRequest("k", scopes=[*ROLES[role]])).secret
    return keys


def ask(running: Running, key: str, text: str, **body: Any) -> str:
    answer = running.post(CHAT, {"model": "bench", "messages": [{"role": "user", "content": text}], **body}, key=key)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


def texts(running: Running, key: str, request_id: str) -> list[tuple[str, str]]:
    answer = running.get(f"/usage/requests/{request_id}/texts", key=key)
    assert answer.status_code == 200, answer.text
    return [(each["prompt"], each["answer"]) for each in answer.json()["texts"]]


def until_followed(running: Running, name: str) -> None:
    end = time.monotonic() + 5
    while name not in running.edge.app.state.gateway.captures.settings:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_prompts_and_answers_are_kept_redacted_for_owners_of_a_team_that_wants_it(
    running: Running, up: Upstream
) -> None:
    keys = team(running, "kept", {"prompts": True, "days": 3, "redact": [r"\d{4}-\d{4}", "(?i)secret"]})
    until_followed(running, "kept")
    whole = ask(running, keys["user"], 'my "card" is 1234-5678,\nSECRET')
    up.stream([chat_chunk("The se"), chat_chunk("cret is 1111-"), chat_chunk("2222.", "stop"), usage_chunk(3, 3)])
    streamed = ask(running, keys["user"], "a stream", stream=True)
    ((prompt, answer),) = texts(running, keys["owner"], whole)
    assert prompt == 'user: my "card" is [redacted],\n[redacted]'
    assert "1234" not in answer
    assert texts(running, keys["owner"], streamed) == [("user: a stream", "The [redacted] is [redacted].")]
    assert running.get(f"/usage/requests/{whole}/texts", key=keys["user"]).status_code == 403
    with closing(sqlite3.connect(Path(running.settings.data_dir) / "usage.db")) as connection:
        (until,) = connection.execute("SELECT max(expires_at) FROM usage_captures").fetchone()
    assert abs(until - time.time() - 3 * 86400) < 60


def test_nothing_is_kept_of_other_teams_and_nothing_is_seen_of_theirs(running: Running, up: Upstream) -> None:
    plain, kept = team(running, "plain", None), team(running, "kept2", {"prompts": True})
    until_followed(running, "kept2")
    silent, told = ask(running, plain["user"], "hello"), ask(running, kept["user"], "hello")
    assert texts(running, running.key, silent) == []
    assert texts(running, plain["owner"], told) == []
    assert len(texts(running, running.key, told)) == 1


def test_a_user_who_is_erased_leaves_no_text(running: Running, up: Upstream) -> None:
    keys = team(running, "gone", {"prompts": True})
    until_followed(running, "gone")
    told = ask(running, keys["user"], "hello")
    assert len(texts(running, keys["owner"], told)) == 1
    assert running.request("DELETE", "/usage?user=gone-user", key=keys["owner"]).json() == {"requests": 1}
    assert texts(running, keys["owner"], told) == []


@pytest.mark.slow
def test_an_expression_that_never_ends_leaves_nothing_to_keep() -> None:
    assert redacted(["(a+)+$"], ["a" * 40 + "b"]) is None
    assert redacted(["b"], ["abc", "x"]) == ["a[redacted]c", "x"]
