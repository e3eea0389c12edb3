"""The file of ``sage tasks generate``: what its lines mean, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.errors import InvalidRequest, SageError
from sage.middleware.cli.tasks.request_lines import RequestLines


def requests(path: Path, content: str, system: str | None = None, **defaults: Any) -> list[dict[str, Any]]:
    path.write_text(content, encoding="utf-8")
    sent = b"".join(RequestLines.read(path, defaults, system).parts())
    assert sent.endswith(b"\n")
    return [json.loads(line) for line in sent.splitlines()]


def test_requests_and_prompts_get_the_defaults_that_they_do_not_set(tmp_path: Path) -> None:
    lines = '"你好"\n\n{"prompt": "b", "model": "other", "custom_id": "7"}\n{"messages": [], "max_tokens": 1}'
    assert requests(tmp_path / "q.jsonl", "\ufeff" + lines, model="m", max_tokens=9) == [
        {"model": "m", "max_tokens": 9, "prompt": "你好"},
        {"model": "other", "max_tokens": 9, "prompt": "b", "custom_id": "7"},
        {"model": "m", "max_tokens": 1, "messages": []},
    ]


def test_a_text_file_has_a_prompt_in_each_line(tmp_path: Path) -> None:
    assert requests(tmp_path / "q.txt", 'plain\n{"prompt": "not read"}\n', model="m") == [
        {"model": "m", "prompt": "plain"},
        {"model": "m", "prompt": '{"prompt": "not read"}'},
    ]


def test_half_a_surrogate_and_a_line_separator_are_a_part_of_a_prompt(tmp_path: Path) -> None:
    (request,) = requests(tmp_path / "q.jsonl", '"a\\ud800b\u2028c"', model="m")
    assert request["prompt"] == "a\ud800b\u2028c"


def test_a_system_message_stands_before_prompts(tmp_path: Path) -> None:
    (request,) = requests(tmp_path / "q.jsonl", '{"prompt": "b"}', "Be short.", model="m")
    assert request["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "b"}]
    assert "prompt" not in request


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"a"\nnot json', "line 2 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('"a"\n[1]', "line 2 has neither 'prompt' nor 'messages'"),
        ('{"model": "m"}', "line 1 has neither"),
        ("\n \n", "has no lines"),
        ('{"prompt": "a"}', "line 1 names no model; give one for all lines: --model MODEL"),
    ],
)
def test_what_is_no_request_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    defaults = {} if "names no model" in message else {"model": "m"}
    with pytest.raises(InvalidRequest, match=message):
        requests(tmp_path / "q.jsonl", content, **defaults)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SageError, match="No such file"):
        RequestLines.read(tmp_path / "none.jsonl", {})
    (tmp_path / "latin.jsonl").write_bytes(b'"\xe9"')
    with pytest.raises(InvalidRequest, match="is not UTF-8"):
        RequestLines.read(tmp_path / "latin.jsonl", {})
