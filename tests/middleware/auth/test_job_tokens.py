"""The credential of a running job: the rights of who asked, as they are at each check."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from running_gateway import PASSWORD

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import Asker, Scope

pytestmark = pytest.mark.both_databases


@pytest.fixture(autouse=True)
def users(accounts):
    accounts.users.add("ada", PASSWORD, role="admin")
    accounts.users.add("bob", PASSWORD, tenant="blue")


def verify(accounts, token):
    return accounts.verifier.verify(token).principal


def test_a_jobs_credential_has_the_rights_of_a_login_without_those_over_accounts(accounts):
    token = accounts.job_tokens.make(Asker("ada", "default"), "job_1", 60)
    principal = verify(accounts, token)
    assert (principal.user, principal.tenant, principal.credential) == ("ada", "default", "job:job_1")
    assert principal.expires_at == 1_800_000_060
    assert Scope.GENERATE in principal.scopes
    assert Scope.TASKS in principal.scopes
    assert not principal.scopes & {Scope.ADMIN, Scope.ACCOUNT, Scope.WORKER, Scope.METRICS}
    assert principal.in_job


def test_a_jobs_credential_has_the_rights_of_the_key_that_asked(accounts):
    made = accounts.keys.create_for("bob", KeyRequest(scopes=["generate"], models=["small-*"]))
    asker = verify(accounts, made.secret).asker
    assert asker == Asker("bob", "blue", made.key.id)
    principal = verify(accounts, accounts.job_tokens.make(asker, "job_2", 60))
    assert (principal.scopes, principal.models, principal.tenant) == ({Scope.GENERATE}, ("small-*",), "blue")


def test_what_takes_the_right_to_ask_away_ends_the_credential(accounts):
    made = accounts.keys.create_for("bob", KeyRequest(scopes=["generate"]))
    by_key = accounts.job_tokens.make(Asker("bob", "blue", made.key.id), "job_3", 60)
    by_login = accounts.job_tokens.make(Asker("bob", "blue"), "job_4", 60)
    accounts.keys.revoke(made.key.id)
    with pytest.raises(AuthenticationFailed, match="has been revoked") as refused:
        verify(accounts, by_key)
    assert refused.value.code == "rights_revoked"
    assert verify(accounts, by_login).user == "bob"
    accounts.users.change("bob", tenant="green")
    with pytest.raises(AuthenticationFailed, match="moved to another tenant"):
        verify(accounts, by_login)
    accounts.users.change("bob", tenant="blue", disabled=True)
    with pytest.raises(AuthenticationFailed, match="is disabled"):
        verify(accounts, by_login)
    with pytest.raises(AuthenticationFailed, match="does not exist"):
        verify(accounts, accounts.job_tokens.make(Asker("eve", "blue"), "job_5", 60))


def test_a_credential_that_is_changed_cut_or_old_is_refused(accounts, clock):
    token = accounts.job_tokens.make(Asker("bob", "blue"), "job_6", 60)
    body, _, signature = token.removeprefix("jt-sage-").partition(".")
    claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims[0] = "ada"
    forged = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    for wrong in (
        f"jt-sage-{forged}.{signature}",
        token[:-1],
        "jt-sage-",
        "jt-sage-.",
        f"jt-sage-{body}.",
        token + "A",
    ):
        with pytest.raises(AuthenticationFailed, match="signature is wrong"):
            verify(accounts, wrong)
    clock.now += 60
    with pytest.raises(AuthenticationFailed, match="expired"):
        verify(accounts, token)


def test_credentials_outlive_a_restart_of_the_gateway_but_not_another_installation(
    accounts, data_dir, database_url, clock, tmp_path
):
    token = accounts.job_tokens.make(Asker("bob", "blue"), "job_7", 60)
    again = Accounts(data_dir, clock=clock, url=database_url)
    other = Accounts(tmp_path / "other", clock=clock)
    try:
        assert verify(again, token).user == "bob"
        with pytest.raises(AuthenticationFailed):
            verify(other, token)
    finally:
        again.close()
        other.close()
    if database_url is None:
        assert (data_dir / "keys" / "jobs.key").stat().st_mode & 0o777 == 0o600
