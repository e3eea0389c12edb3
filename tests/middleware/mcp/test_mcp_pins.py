"""Pins of tools, on both databases, and the commands that manage them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sage.errors import Conflict, NotFound
from sage.middleware.audit.log import AuditFilter, AuditLog
from sage.middleware.cli.main import app
from sage.middleware.mcp.client.definitions import public_name, read_tool
from sage.middleware.mcp.pins.store import FIRST, Pins
from sage.middleware.settings.database import DatabaseUrl


def offer(*tools: tuple[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Tools with their digests."""
    return [(name, digest * 64, {"name": name, "description": f"{name} {digest}"}) for name, digest in tools]


@pytest.fixture
def pins(tmp_path: Path, database_url: DatabaseUrl | None) -> Iterator[Pins]:
    made = Pins(tmp_path, database_url, lambda: 1000.5)
    yield made
    made.close()


@pytest.mark.both_databases
def test_what_is_there_at_first_is_believed_and_what_comes_later_is_not(pins: Pins) -> None:
    assert pins.observe("docs", offer(("a", "1"), ("b", "1")), trust_first=True) == []
    assert pins.observe("docs", offer(("a", "1"), ("b", "2"), ("c", "1")), trust_first=True) == ["b", "c"]
    assert pins.observe("docs", offer(("a", "1"), ("b", "2"), ("c", "1")), trust_first=True) == [], "told once"
    assert [(tool.name, tool.state, tool.accepted_by) for tool in pins.of("docs")] == [
        ("a", "accepted", FIRST),
        ("b", "changed", FIRST),
        ("c", "new", None),
    ]
    assert pins.of("docs")[1].definition == {"name": "b", "description": "b 2"}
    assert pins.of("docs")[1].accepted_definition == {"name": "b", "description": "b 1"}
    assert pins.of("docs")[2].accepted_definition is None
    assert pins.accepted() == {("docs", "a"): "1" * 64, ("docs", "b"): "1" * 64}
    assert pins.observe("docs", offer(("b", "1")), trust_first=True) == [], "as it was accepted"
    assert pins.servers() == ["docs"]


@pytest.mark.both_databases
def test_acceptance_is_of_what_was_looked_at(pins: Pins) -> None:
    assert pins.observe("docs", offer(("a", "1"), ("b", "1")), trust_first=False) == ["a", "b"]
    assert pins.accepted() == {}
    with pytest.raises(Conflict, match="in another form by now"):
        pins.accept("docs", {"b": None, "a": "2" * 64}, "user:root")
    with pytest.raises(NotFound, match="has offered no tool 'z'"):
        pins.accept("docs", {"a": None, "z": None}, "user:root")
    assert pins.accepted() == {}, "nothing half accepted"
    assert pins.accept("docs", {"a": "1" * 64}, "user:root") == ["a"]
    assert pins.of("docs")[0].accepted_definition == {"name": "a", "description": "a 1"}
    assert pins.accept("docs", None, "operator") == ["b"]
    assert pins.accept("docs", None, "operator") == []
    assert [tool.accepted_by for tool in pins.of("docs")] == ["user:root", "operator"]
    assert pins.of("docs")[0].accepted_at == 1000
    assert pins.accept("other", None, "operator") == []


def test_every_part_of_a_definition_is_in_its_digest() -> None:
    base: dict[str, Any] = {"name": "a", "description": "d", "inputSchema": {"type": "object"}}
    read = read_tool("docs", base)
    assert not isinstance(read, str)
    others = [
        {"description": "e"},
        {"title": "t"},
        {"inputSchema": {"type": "object", "properties": {"x": {"description": "obey"}}}},
        {"outputSchema": {"type": "object"}},
        {"annotations": {"readOnlyHint": True}},
    ]
    digests = {read.digest}
    for other in others:
        changed = read_tool("docs", {**base, **other})
        assert not isinstance(changed, str)
        digests.add(changed.digest)
    assert len(digests) == 1 + len(others)
    unread = read_tool("docs", {**base, "_meta": {"x": 1}})
    assert not isinstance(unread, str)
    assert unread.digest == read.digest, "what nobody is shown"
    assert public_name("docs", "a.b") == "docs__a_b"


def test_commands_list_tools_and_accept_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    servers = {"docs": {"url": "http://127.0.0.1:9/mcp"}, "prog": {"command": ["/bin/true", "-x"]}}
    config.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "mcp": {"servers": servers}}))
    monkeypatch.setenv("SAGE_CONFIG", str(config))
    pins = Pins(tmp_path / "data")
    (tmp_path / "data").mkdir(mode=0o700)
    pins.observe("docs", offer(("a", "1"), ("b", "1")), trust_first=False)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["mcp", *arguments, "--config", str(config)], catch_exceptions=True)
        assert result.exit_code == code, result.output
        return result.output

    assert json.loads(run("list", "--json"))["servers"] == [
        {"name": "docs", "transport": "http", "address": "http://127.0.0.1:9/mcp", "accepted": 0, "held": 2},
        {"name": "prog", "transport": "stdio", "address": "/bin/true -x", "accepted": 0, "held": 0},
    ]
    assert run("accept", "docs", "a") == "accepted: a\n"
    assert [tool["name"] for tool in json.loads(run("tools", "docs", "--held", "--json"))["tools"]] == ["b"]
    assert "b 1" in run("tools", "docs")
    assert run("accept", "docs", "--all") == "accepted: b\n"
    assert run("accept", "docs", "--all") == "nothing was held back\n"
    assert run("tools", "docs", "--held") == "no tools\n"
    run("accept", "docs", code=2)
    log = AuditLog(tmp_path / "data")
    events, _ = log.page(AuditFilter(action="mcp.accept"), None, 10)
    log.close()
    assert [(event["actor"], event["details"]) for event in events] == [
        ("operator", {"tools": ["b"]}),
        ("operator", {"tools": ["a"]}),
    ]
    pins.close()
