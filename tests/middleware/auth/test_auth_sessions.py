"""Users, logins, rotation of refresh tokens, and the first admin."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from passlib.hash import argon2
from running_gateway import LOW_COST
from sqlalchemy import text

from sage.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.settings.settings import Auth

pytestmark = [pytest.mark.slow, pytest.mark.both_databases]


def principal(accounts: Accounts, token: str) -> Principal:
    return accounts.verifier.verify(token).principal


def assert_ended(accounts: Accounts, token: str) -> None:
    with pytest.raises(AuthenticationFailed, match="session has ended"):
        accounts.verifier.verify(token)


def test_a_login_gives_the_rights_of_the_user(accounts: Accounts, root: str, password: str, clock) -> None:
    login = accounts.sessions.login("root", password)
    caller = principal(accounts, login.access_token)
    assert (caller.user, caller.tenant, caller.role, caller.scopes) == ("root", "default", "admin", frozenset(Scope))
    assert caller.expires_at == clock.now + 900 == clock.now + login.expires_in
    assert caller.session is not None
    assert not caller.by_key
    assert login.access_token not in repr(login)
    assert login.refresh_token not in repr(login)


def test_a_wrong_login_gets_the_same_error_for_every_cause(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("gone", password)
    accounts.users.change("gone", disabled=True)
    attempts = [("root", "wrong" * 5), ("root", ""), ("nobody", password), ("gone", password), ("\ud800", password)]
    messages = set()
    for name, attempt in attempts:
        with pytest.raises(AuthenticationFailed) as caught:
            accounts.sessions.login(name, attempt)
        messages.add((caught.value.message, caught.value.code))
    assert messages == {("wrong user name or password", "wrong_password")}


def test_an_unknown_user_costs_a_hash_too(accounts: Accounts, root: str, password: str) -> None:
    checked: list[str | None] = []
    verify = accounts.passwords.verify

    def count(given: str, stored: str | None) -> bool:
        checked.append(stored)
        return verify(given, stored)

    accounts.passwords.verify = count  # type: ignore[method-assign]
    for name in ("nobody", "not a name!", "root"):
        with pytest.raises(AuthenticationFailed):
            accounts.sessions.login(name, "wrong" * 5)
    assert checked[:2] == [None, None]
    assert len(checked) == 3


def test_an_old_hash_is_renewed_at_login(accounts: Accounts, root: str, password: str) -> None:
    weak = argon2.using(type="ID", memory_cost=1024, rounds=1, parallelism=1).hash(password)
    with accounts.database.writing() as connection:
        connection.execute(text("UPDATE users SET password_hash = :weak"), {"weak": weak})
    accounts.sessions.login("root", password)
    with accounts.database.reading() as connection:
        stored = connection.execute(text("SELECT password_hash FROM users")).scalar_one()
    assert stored.startswith(f"$argon2id$v=19$m={LOW_COST.memory_kib},t=1,p=1$")
    assert accounts.sessions.login("root", password).expires_in == 900


def test_a_refresh_continues_the_session(accounts: Accounts, root: str, password: str) -> None:
    first = accounts.sessions.login("root", password)
    second = accounts.sessions.refresh(first.refresh_token)
    third = accounts.sessions.refresh(second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    sessions = {principal(accounts, login.access_token).session for login in (first, second, third)}
    assert len(sessions) == 1


def test_a_refresh_token_used_twice_ends_the_whole_session(accounts: Accounts, root: str, password: str) -> None:
    first = accounts.sessions.login("root", password)
    other = accounts.sessions.login("root", password)
    second = accounts.sessions.refresh(first.refresh_token)
    before = accounts.database.revision
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(first.refresh_token)
    assert accounts.database.revision == before + 1
    assert_ended(accounts, first.access_token)
    assert_ended(accounts, second.access_token)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(second.refresh_token)
    assert principal(accounts, other.access_token).user == "root"


@pytest.mark.parametrize("token", ["", "rt-sage-", "rt-sage-" + "A" * 43, "x" * 10000, "\ud800", "rt-sage-" + "é" * 43])
def test_unknown_refresh_tokens_are_refused(accounts: Accounts, root: str, token: str) -> None:
    with pytest.raises(AuthenticationFailed, match="log in again"):
        accounts.sessions.refresh(token)


def test_a_session_ends_with_its_time(data_dir: Path, clock, password: str, database_url) -> None:
    auth = Auth(access_token_ttl=100, refresh_token_ttl=150)
    accounts = Accounts(data_dir, auth, clock, hash_cost=LOW_COST, url=database_url)
    accounts.users.add("root", password, "admin")
    login = accounts.sessions.login("root", password)
    clock.now += 99
    login = accounts.sessions.refresh(login.refresh_token)
    assert login.expires_in == 51  # no token outlives its session
    clock.now += 51
    with pytest.raises(AuthenticationFailed, match="expired"):
        accounts.verifier.verify(login.access_token)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(login.refresh_token)
    accounts.sessions.login("root", password)
    with accounts.database.reading() as connection:  # what has ended is pruned, its tokens with it
        for table in ("sessions", "refresh_tokens"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1
    accounts.close()


def test_logout_ends_this_session_only(accounts: Accounts, root: str, password: str) -> None:
    here, there = accounts.sessions.login("root", password), accounts.sessions.login("root", password)
    accounts.sessions.logout(principal(accounts, here.access_token).session)
    assert_ended(accounts, here.access_token)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(here.refresh_token)
    assert principal(accounts, there.access_token).user == "root"
    with pytest.raises(InvalidRequest, match="API key has no session"):
        accounts.sessions.logout(None)


@pytest.mark.parametrize("change", [{"disabled": True}, {"password": "another password of mine"}])
def test_disabling_and_a_new_password_end_every_session(accounts, root, password, change) -> None:
    accounts.users.add("bob", password)
    login, issued = accounts.sessions.login("bob", password), accounts.sessions.issue("bob")
    mine = accounts.sessions.issue("root")
    accounts.users.change("bob", **change)
    assert_ended(accounts, login.access_token)
    assert_ended(accounts, issued)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(login.refresh_token)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.login("bob", password)
    accounts.users.change("bob", disabled=False)
    assert_ended(accounts, issued)
    assert principal(accounts, mine).user == "root"


def test_a_new_role_and_tenant_apply_to_tokens_already_issued(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("bob", password)
    token = accounts.sessions.issue("bob")
    accounts.users.change("bob", role="admin", tenant="lab")
    caller = principal(accounts, token)
    assert (caller.role, caller.tenant, caller.scopes) == ("admin", "lab", frozenset(Scope))


def test_issue_asks_for_a_name_only_when_there_is_a_choice(accounts: Accounts, password: str) -> None:
    with pytest.raises(InvalidRequest, match="sage user add NAME --role admin"):
        accounts.sessions.issue(None)
    accounts.users.add("ann", password)
    assert principal(accounts, accounts.sessions.issue(None)).user == "ann"
    accounts.users.add("bob", password)
    with pytest.raises(InvalidRequest, match="choose one with --user: ann, bob"):
        accounts.sessions.issue(None)
    accounts.users.change("ann", disabled=True)
    assert principal(accounts, accounts.sessions.issue(None)).user == "bob"
    with pytest.raises(InvalidRequest, match="'ann' is disabled"):
        accounts.sessions.issue("ann")
    with pytest.raises(NotFound, match="no user 'eve'; there are: ann, bob"):
        accounts.sessions.issue("eve")


def test_names_are_unique_in_upper_and_lower_case(accounts: Accounts, root: str, password: str) -> None:
    with pytest.raises(Conflict, match="'ROOT' is taken"):
        accounts.users.add("ROOT", password)
    assert principal(accounts, accounts.sessions.login("Root", password).access_token).user == "root"


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ä/b", "x" * 65, "a\n", "a'--"])
def test_strange_names_are_refused(accounts: Accounts, password: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match="user name has 1 to 64"):
        accounts.users.add(name, password)
    with pytest.raises(InvalidRequest, match="tenant has 1 to 64"):
        accounts.users.add("ok", password, tenant=name)
    assert accounts.users.list() == []


def test_an_unknown_role_is_refused(accounts: Accounts, root: str, password: str) -> None:
    with pytest.raises(InvalidRequest, match="no role 'king'; known: admin, owner, user, viewer"):
        accounts.users.add("bob", password, role="king")
    with pytest.raises(InvalidRequest, match="no role 'king'"):
        accounts.users.change("root", role="king")


def test_the_last_enabled_admin_stays(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("second", password, role="admin")
    accounts.users.change("second", disabled=True)
    for change in ({"disabled": True}, {"role": "user"}):
        with pytest.raises(Conflict, match="last enabled admin"):
            accounts.users.change("root", **change)  # type: ignore[arg-type]
    accounts.users.change("second", disabled=False)
    assert accounts.users.change("root", role="user").role == "user"
    with pytest.raises(Conflict, match="'second' is the last enabled admin"):
        accounts.users.change("second", disabled=True)


def setup_token(path: Path | None) -> str:
    assert path is not None
    return path.read_text().strip()


def test_the_setup_token_makes_one_admin_once(accounts: Accounts, data_dir: Path, password: str) -> None:
    path = accounts.prepare_setup()
    assert path == data_dir / "setup-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = setup_token(path)
    user = accounts.first_admin.complete(token, "me", password)
    assert (user.name, user.role, user.disabled) == ("me", "admin", False)
    assert not path.exists()
    with pytest.raises(AuthenticationFailed, match="used or expired"):
        accounts.first_admin.complete(token, "eve", password)
    assert [user.name for user in accounts.users.list()] == ["me"]
    assert accounts.prepare_setup() is None


def test_a_wrong_setup_token_is_refused_and_the_right_one_still_works(accounts: Accounts, password: str) -> None:
    with pytest.raises(AuthenticationFailed):
        accounts.first_admin.complete("", "eve", password)  # none was issued yet
    token = setup_token(accounts.prepare_setup())
    for wrong in ("", token[:-1], token + "x", "\ud800"):
        with pytest.raises(AuthenticationFailed):
            accounts.first_admin.complete(wrong, "eve", password)
    with pytest.raises(InvalidRequest):
        accounts.first_admin.complete(token, "me", "short")  # a slip does not use it up
    assert accounts.first_admin.complete(token, "me", password).role == "admin"


def test_the_setup_token_expires_after_15_minutes_and_its_file_goes(accounts: Accounts, clock, password: str) -> None:
    path = accounts.prepare_setup()
    token = setup_token(path)
    clock.now += 15 * 60 - 1
    accounts.first_admin.check(token)
    clock.now += 1
    with pytest.raises(AuthenticationFailed):
        accounts.first_admin.complete(token, "me", password)
    assert path is not None
    assert not path.exists()
    assert setup_token(accounts.prepare_setup()) != token


def test_setup_is_over_when_the_command_line_made_a_user(accounts, data_dir: Path, password: str, database_url) -> None:
    path = accounts.prepare_setup()
    token = setup_token(path)
    beside = Accounts(data_dir, url=database_url)
    beside.users.add("ann", password)
    beside.close()
    with pytest.raises(Conflict, match="there are users already"):
        accounts.first_admin.complete(token, "eve", password)
    assert not path.exists()
    assert [user.name for user in accounts.users.list()] == ["ann"]


def test_a_stale_setup_file_is_removed_at_start_when_there_are_users(accounts, root: str, data_dir: Path) -> None:
    (data_dir / "setup-token").write_text("old")
    assert accounts.prepare_setup() is None
    assert not (data_dir / "setup-token").exists()
