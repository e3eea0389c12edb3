"""``sage team``, and what ``sage user`` and ``sage key`` say for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running_gateway import PASSWORD
from typer.testing import CliRunner

from sage.middleware.auth.accounts import Accounts
from sage.middleware.cli.main import app

pytestmark = pytest.mark.slow  # a data directory opened for each command


class Commands:
    """Runs commands on a data directory, in this process."""

    def __init__(self) -> None:
        self._runner = CliRunner()

    def __call__(self, *words: str, stdin: str = "") -> Any:
        """What ``--json`` prints."""
        ran = self._runner.invoke(app, [*words, "--json"], input=stdin)
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return json.loads(ran.stdout)

    def failed(self, *words: str, status: int = 1) -> str:
        ran = self._runner.invoke(app, list(words))
        assert (ran.exit_code, ran.stdout) == (status, ""), ran.output
        return ran.stderr.strip()

    def text(self, *words: str) -> str:
        ran = self._runner.invoke(app, list(words))
        assert ran.exit_code == 0, ran.output
        return str(ran.stdout)


@pytest.fixture
def sage(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("SAGE_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Commands()


def test_a_team_from_its_first_day_to_its_last(sage: Commands) -> None:
    made = sage("team", "add", "acme", "--note", "of Ann", "--model", "gpt-*", "--rpm", "60", "--member-rpm", "5")
    assert (made["id"], made["models"], made["limits"], made["member_limits"]) == (
        *("acme", ["gpt-*"]),
        *({"rpm": 60}, {"rpm": 5}),
    )
    changed = sage("team", "set", "acme", "--tpm", "1000", "--rpm", "0", "--capture-days", "30", "--redact", r"\d{16}")
    assert changed["limits"] == {"tpm": 1000}
    assert changed["member_limits"] == {"rpm": 5}
    assert changed["capture"] == {"prompts": True, "days": 30, "redact": [r"\d{16}"]}
    assert sage("team", "set", "acme", "--capture-days", "0")["capture"] is None
    assert [team["name"] for team in sage("team", "list")["teams"]] == ["acme"]
    assert sage("team", "show", "acme")["note"] == "of Ann"
    assert sage("team", "delete", "acme")["deleted"] is True
    assert sage("team", "list")["teams"] == []
    assert "was deleted, and what it stored is still there" in sage.failed("team", "add", "acme")
    assert sage("team", "restore", "acme")["models"] == ["gpt-*"]
    assert "there is no team 'nobody'" in sage.failed("team", "show", "nobody")
    assert "is no regular expression" in sage.failed(
        "team", "set", "acme", "--capture-days", "1", "--redact", "(", status=2
    )


def test_what_each_member_of_a_team_may_spend(sage: Commands) -> None:
    dollars = {"usd": 2.5, "window": "day", "hard": True}
    made = sage("team", "add", "acme", "--member-usd", "2.50", "--member-window", "day")
    assert made["member_budget"] == sage("team", "show", "acme")["member_budget"] == dollars
    assert sage("team", "set", "acme", "--note", "of Ann")["member_budget"] == dollars
    added = sage("user", "add", "ann", "--team", "acme", "--password-stdin", stdin=PASSWORD + "\n")
    assert added["name"] == "ann"
    budget = sage("user", "show", "ann")["budget"]
    assert (budget["subject"], budget["usd"], budget["left"], budget["source"]) == ("user:ann", 2.5, 2.5, "team")
    assert "$2.5, day" in sage.text("team", "list")
    tokens = {"tokens": 900, "window": "month", "hard": False}
    changed = sage("team", "set", "acme", "--member-tokens", "900", "--member-soft")
    assert changed["member_budget"] == tokens
    assert "900, month, soft" in sage.text("team", "show", "acme")
    assert sage("team", "set", "acme", "--member-usd", "0")["member_budget"] is None
    assert sage("user", "show", "ann")["budget"] is None
    for words in (["--member-usd", "x"], ["--member-usd", "1", "--member-tokens", "1"], ["--member-soft"]):
        assert "--member-usd" in sage.failed("team", "set", "acme", *words, status=2)
    told = [each["details"] for each in sage("audit", "list", "--target", "budget:member:acme")["events"]]
    assert told == [
        {"budget_before": tokens},
        {"budget": tokens, "budget_before": {"usd": "2.5", "window": "day", "hard": True}},
        {"budget": {"usd": "2.5", "window": "day", "hard": True}, "budget_before": None},
    ]


def test_users_and_keys_for_programs(sage: Commands, data_dir: Path) -> None:
    added = sage("user", "add", "ann", "--team", "acme", "--rpm", "9", "--password-stdin", stdin=PASSWORD + "\n")
    assert (added["name"], added["tenant"], added["limits"]) == ("ann", "acme", {"rpm": 9})
    assert sage("user", "set", "ann", "--role", "owner", "--tpm", "5")["limits"] == {"rpm": 9, "tpm": 5}
    assert sage("user", "set", "ann", "--rpm", "0", "--tpm", "0")["limits"] == {}
    assert sage("user", "set", "ann", "--default-limits")["limits"] is None
    assert sage("user", "show", "ann")["role"] == "owner"
    assert sage("user", "disable", "ann")["disabled"] is True
    assert sage("user", "enable", "ann")["disabled"] is False
    key = sage("key", "add", "--user", "ann", "--tag", "ci", "--note", "n", "--concurrent", "2")
    assert (key["tags"], key["note"], key["limits"], key["tenant"]) == (["ci"], "n", {"concurrent": 2}, "acme")
    assert sage("key", "set", key["id"], "--name", "x", "--no-tags", "--rpm", "3")["tags"] == []
    changed = sage("key", "set", key["id"], "--tool", "docs__*", "--tool", "web__get")
    assert changed["tools"] == ["docs__*", "web__get"]
    assert sage("key", "show", key["id"])["limits"] == {"rpm": 3, "concurrent": 2}
    rotated = sage("key", "rotate", key["id"], "--overlap", "1h")
    assert rotated["previous_expires_at"] == rotated["rotated_at"] + 3600
    accounts = Accounts(data_dir)
    assert accounts.verifier.verify(rotated["key"]).principal.credential == f"key:{key['id']}"
    assert accounts.verifier.verify(key["key"]).principal.is_replaced
    accounts.close()
    assert [listed["id"] for listed in sage("key", "list", "--team", "acme")["keys"]] == [key["id"]]
    assert sage("key", "list", "--team", "other")["keys"] == []
    assert sage("key", "revoke", key["id"])["revoked_at"] is not None
    assert sage.failed("key", "rotate", key["id"], "--overlap", "soon", status=2).startswith("sage: --overlap: ")


def test_tables_and_details_for_readers(sage: Commands) -> None:
    sage("user", "add", "ann", "--rpm", "9", "--password-stdin", stdin=PASSWORD + "\n")
    head, row = sage.text("user", "list").splitlines()
    assert head.split()[:5] == ["NAME", "ROLE", "TENANT", "STATE", "LIMITS"]
    assert row.split()[:5] == ["ann", "user", "default", "rpm", "9"]
    lines = dict(line.split(None, 1) for line in sage.text("team", "show", "default").splitlines())
    assert (lines["name"], lines["members"], lines["models"]) == ("default", "1", "*")
