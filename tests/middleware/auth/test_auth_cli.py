"""``sage user``, ``sage key`` and ``sage token`` as they are typed: exit codes, one line of error, a pure stdout."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sage_process
from project import ROOT

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.api_keys.text import parse_key

pytestmark = pytest.mark.slow  # many processes

PASSWORD = "correct horse battery staple"
Sage = Callable[..., subprocess.CompletedProcess[str]]


def environment(data_dir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "SAGE_DATA_DIR": str(data_dir), "COLUMNS": "200"}


@pytest.fixture
def sage(data_dir: Path, tmp_path: Path) -> Sage:
    """Runs the command on the data directory."""

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return sage_process.sage(words, environment(data_dir), cwd=tmp_path, stdin=stdin)

    return run


def assert_failed(ran: subprocess.CompletedProcess[str], words: str, status: int = 1) -> None:
    assert (ran.returncode, ran.stdout) == (status, "")
    assert len(ran.stderr.splitlines()) == 1
    assert words in ran.stderr


def test_the_first_user_a_token_and_a_key(sage: Sage, data_dir: Path) -> None:
    assert_failed(sage("token"), "make the first: sage user add NAME --role admin")
    added = sage("user", "add", "me", "--role", "admin", "--password-stdin", stdin=PASSWORD + "\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "user 'me' created: admin, tenant default\n")

    token = sage("token")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", token.stdout)
    assert (token.returncode, token.stderr) == (0, "")

    key = sage(
        "key",
        "add",
        "--user",
        "me",
        "--name",
        "ci",
        "--model",
        "gpt-*",
        "--model",
        "x",
        "--scope",
        "generate",
        "--expires",
        "30d",
    )
    assert key.returncode == 0
    assert parse_key(key.stdout.removesuffix("\n")) is not None
    assert key.stdout.strip() not in key.stderr

    accounts = Accounts(data_dir)
    assert accounts.verifier.verify(token.stdout.strip()).principal.user == "me"
    caller = accounts.verifier.verify(key.stdout.strip()).principal
    assert (caller.models, sorted(caller.scopes)) == (("gpt-*", "x"), ["generate"])
    assert caller.expires_at is not None
    assert 29.9 < (caller.expires_at - accounts.clock()) / 86400 <= 30
    assert accounts.sessions.login("me", PASSWORD).expires_in == 900

    listed = json.loads(sage("key", "list", "--json").stdout)["keys"]
    assert [(row["name"], row["user"], row["last4"]) for row in listed] == [("ci", "me", key.stdout.strip()[-4:])]
    assert "generate" in sage("key", "list").stdout
    revoked = sage("key", "revoke", listed[0]["id"])
    assert (revoked.returncode, revoked.stdout) == (0, "")
    with pytest.raises(AuthenticationFailed, match="revoked"):
        accounts.verifier.verify(key.stdout.strip())
    assert "revoked" in sage("key", "list").stdout
    accounts.close()


def test_users_are_listed_disabled_enabled_and_given_passwords(sage: Sage, accounts: Accounts, root: str) -> None:
    assert sage("user", "add", "bob", "--tenant", "lab", "--password-stdin", stdin=PASSWORD).returncode == 0
    users = json.loads(sage("user", "list", "--json").stdout)["users"]
    assert [(user["name"], user["role"], user["tenant"]) for user in users] == [
        ("bob", "user", "lab"),
        ("root", "admin", "default"),
    ]
    assert sage("user", "disable", "bob").returncode == 0
    assert re.search(r"bob\s+user\s+lab\s+disabled", sage("user", "list").stdout)
    assert_failed(sage("token", "--user", "bob"), "'bob' is disabled")
    assert sage("user", "enable", "bob").returncode == 0
    assert sage("token", "--user", "bob").returncode == 0
    assert_failed(sage("token"), "choose one with --user: bob, root")
    assert sage("user", "passwd", "bob", "--password-stdin", stdin="another password of his\n").returncode == 0
    assert accounts.sessions.login("bob", "another password of his")
    assert_failed(sage("user", "disable", "root"), "last enabled admin")


def test_refusals_are_one_line_and_exit_code_1(sage: Sage, root: str) -> None:
    for words, stdin, message in [
        (["user", "add", "root", "--password-stdin"], PASSWORD, "'root' is taken"),
        (["user", "add", "a b", "--password-stdin"], PASSWORD, "user name has 1 to 64"),
        (["user", "add", "bob", "--role", "king", "--password-stdin"], PASSWORD, "no role 'king'"),
        (["user", "add", "bob", "--password-stdin"], "short\n", "needs at least 15"),
        (["user", "add", "bob", "--password-stdin"], "", "no password on stdin"),
        (["user", "disable", "eve"], "", "no user 'eve'; there are: root"),
        (["key", "add", "--user", "eve"], "", "no user 'eve'"),
        (["key", "add", "--user", "root", "--scope", "all"], "", "no scope 'all'; known: account, admin"),
        (["key", "add", "--user", "root", "--model", "gpt-?"], "", "'*' is the only wildcard"),
        (["key", "revoke", "nope"], "", "no API key 'nope'"),
        (["token", "--user", "eve"], "", "no user 'eve'"),
        (["token", "--config", "absent.yaml"], "", "no such configuration file"),
    ]:
        assert_failed(sage(*words, stdin=stdin), message)


def test_usage_faults_are_exit_code_2(sage: Sage, root: str) -> None:
    assert_failed(sage("user", "add", "bob"), "--password-stdin", status=2)
    assert_failed(sage("key", "add", "--user", "root", "--expires", "soon"), "'soon' is not a duration", status=2)
    for words in (
        ["user", "add"],
        ["key", "add"],
        ["key", "revoke"],
        ["token", "--nope"],
        ["user", "add", "x", PASSWORD],
    ):
        ran = sage(*words)
        assert (ran.returncode, ran.stdout) == (2, "")


def test_the_data_directory_comes_from_the_configuration(sage: Sage, tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "sage.yaml").write_text(f"data_dir: {tmp_path / 'elsewhere'}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "sage.middleware.cli.main", "user", "list", "--json", "--config", "sage.yaml"],
        env={name: value for name, value in environment(data_dir).items() if name != "SAGE_DATA_DIR"},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert json.loads(ran.stdout) == {"users": []}
    assert (tmp_path / "elsewhere" / "sage.db").exists()
    assert not data_dir.exists()


@pytest.mark.parametrize(("second", "made"), [(PASSWORD, True), ("something else entirely", False)])
def test_a_terminal_prompts_twice_for_the_password_and_hides_it(
    data_dir: Path, tmp_path: Path, second: str, made: bool
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        command = [sys.executable, "-m", "sage.middleware.cli.main", "user", "add", "me"]
        os.execve(sys.executable, command, environment(data_dir))
    seen = b""

    def read_until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(terminal, 4096)

    read_until(b"characters): ")
    os.write(terminal, PASSWORD.encode() + b"\n")
    read_until(b"confirmation: ")
    os.write(terminal, second.encode() + b"\n")
    if made:
        read_until(b"user 'me' created")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        read_until(b"do not match")
        # The prompt comes again; what is typed before that is flushed, an interrupt too.
        while not seen.partition(b"do not match")[2].endswith(b"characters): "):
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    os.close(terminal)
    assert PASSWORD.encode() not in seen
    accounts = Accounts(data_dir)
    assert [user.name for user in accounts.users.list()] == (["me"] if made else [])
    accounts.close()


def test_the_command_starts_without_the_server_and_the_auth_room(data_dir: Path, tmp_path: Path) -> None:
    code = "import sys, sage.middleware.cli.main; print({'fastapi', 'sqlalchemy', 'jose'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(data_dir), capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"


def test_a_token_from_the_command_line_opens_the_server_and_a_revoked_key_does_not(gateway) -> None:
    running = gateway()

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "sage.middleware.cli.main", *words]
        return subprocess.run(
            command, env=environment(running.settings.data_dir), capture_output=True, text=True, check=True
        ).stdout.strip()

    token = run("token")
    assert running.get("/auth/me", key=token).json()["user"] == "root"
    key = run("key", "add", "--user", "root", "--scope", "account")
    assert running.get("/auth/me", key=key).json()["scopes"] == ["account"]
    run("key", "revoke", str(parse_key(key)))
    revoked_at = time.monotonic()
    while running.get("/auth/me", key=key).status_code == 200:
        assert time.monotonic() - revoked_at < 1.0
        time.sleep(0.01)
    assert "revoked" in running.get("/auth/me", key=key).json()["error"]["message"]


def test_a_taken_name_is_refused_before_the_password_prompt(sage: Sage) -> None:
    sage("user", "add", "me", "--password-stdin", stdin=PASSWORD + "\n")
    assert_failed(sage("user", "add", "me"), "the user name 'me' is taken")
    assert_failed(sage("user", "add", "you", "--role", "king"), "king")
