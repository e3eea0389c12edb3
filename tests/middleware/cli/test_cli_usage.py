"""`sage usage`: a table with bars, JSON and CSV of what calls used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running
from sage_process import environment, sage
from upstream import Upstream

from sage.middleware.cli.usage import bar

pytestmark = pytest.mark.slow


def sections(up: Upstream) -> dict[str, Any]:
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}
    models = {
        "dear": {"deployments": [{"provider": "up0", "model": "a", "price": {"per_request": 2}}]},
        "cheap": {"deployments": [{"provider": "up0", "model": "b", "price": {"per_request": 1}}]},
        "nobody-knows": {"deployments": [{"provider": "up0", "model": "c"}]},
    }
    return {"llm": {"providers": {"up0": provider}, "models": models}}


@pytest.fixture
def asked(gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        yield gateway(**sections(up))


def test_a_bar_is_as_long_as_its_share_and_anything_shows() -> None:
    assert [bar(share) for share in (0, 0.001, 0.5, 1)] == ["", "▏", "█" * 10, "█" * 20]


def test_usage_is_shown_as_a_table_with_bars_as_json_and_as_csv(asked: Running, tmp_path: Path) -> None:
    running = asked
    for model in ("dear", "dear", "cheap", "nobody-knows"):
        assert running.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}]}).ok
    env = environment(tmp_path / "mine", SAGE_URL=running.url, SAGE_API_KEY=running.key)

    def usage(*words: str) -> Any:
        done = sage(["usage", "--by", "model", *words], env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    table = usage()
    head, *rows = [line.split() for line in table.stdout.splitlines() if line.strip()]
    assert head[:7] == ["MODEL", "CALLS", "FAILED", "PROMPT", "CACHED", "ANSWER", "USD"]
    shown = {row[0]: (row[1], row[6], row[7] if len(row) > 7 else "") for row in rows}
    assert shown == {
        "dear": ("2", "4.0000", "█" * 20),
        "cheap": ("1", "1.0000", "█" * 5),
        "nobody-knows": ("1", "?", ""),
    }
    assert "price of 1 of these calls" in table.stderr
    told = json.loads(usage("--json").stdout)
    assert [(row["model"], row["cost"]) for row in told["rows"]] == [("dear", 4), ("cheap", 1), ("nobody-knows", None)]
    lines = list(csv.DictReader(io.StringIO(usage("--csv").stdout)))
    assert [(row["model"], row["cost"], row["priced"]) for row in lines] == [
        ("dear", "4", "true"),
        ("cheap", "1", "true"),
        ("nobody-knows", "", "false"),
    ]
    assert "no calls in that time" in usage("--from", "2020-01-01", "--to", "2020-01-31").stdout
    assert sage(["usage", "--tz", "Mars/Olympus"], env, cwd=tmp_path).returncode == 1
