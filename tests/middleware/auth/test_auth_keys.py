"""API keys: their text, and that no key reaches further than what made it."""

from __future__ import annotations

import string
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from sage.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, PermissionDenied, SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.api_keys.text import _checksum, hash_key, make_key, matches, parse_key
from sage.middleware.auth.grants import KeyRequest, check_patterns, covers, decide
from sage.middleware.auth.principal import ROLES, Principal, Scope

pytestmark = pytest.mark.both_databases

SMALL = st.text("ab/-*", min_size=1, max_size=6)
NAMES = st.text("ab/-cX", max_size=8)


def refusal(accounts: Accounts, secret: str) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        accounts.verifier.verify(secret)
    return caught.value.message


def principal(accounts: Accounts, secret: str) -> Principal:
    return accounts.verifier.verify(secret).principal


def test_a_key_parses_back_to_its_id() -> None:
    made = make_key()
    assert parse_key(made.text) == made.id
    assert made.text.startswith(f"sk-sage-{made.id}-")
    assert matches(made.text, made.hash)
    assert not matches(make_key().text, made.hash)
    assert not matches(made.text, None)
    assert made.text not in repr(made)


def test_every_mistyped_character_is_caught_by_the_checksum() -> None:
    text = make_key().text
    for place in range(len(text)):
        for typed in string.digits + string.ascii_letters + "-_ ":
            if typed != text[place]:
                assert parse_key(text[:place] + typed + text[place + 1 :]) is None


@given(st.integers(0, 60), st.text(max_size=3))
def test_cut_or_extended_keys_are_refused(place: int, extra: str) -> None:
    text = make_key().text
    assert parse_key(text[:place]) is None
    assert (parse_key(text + extra) is None) == (extra != "")


@given(SMALL, SMALL, NAMES)
def test_a_covered_pattern_matches_nothing_beyond_its_parent(parent: str, child: str, name: str) -> None:
    if covers(parent, child) and fnmatchcase(name, child):
        assert fnmatchcase(name, parent)


@given(SMALL, SMALL)
def test_a_pattern_that_is_not_covered_matches_further_names(parent: str, child: str) -> None:
    if not covers(parent, child):
        witness = child.replace("*", "\u2603")
        assert fnmatchcase(witness, child)
        assert not fnmatchcase(witness, parent)


@given(
    st.lists(SMALL, min_size=1, max_size=3),
    st.lists(SMALL, min_size=1, max_size=3),
    st.sets(st.sampled_from(Scope)),
    st.sets(st.sampled_from(Scope), min_size=1),
    st.sampled_from(["t", "u", None]),
    st.one_of(st.none(), st.integers(1, 100)),
    st.one_of(st.none(), st.integers(1, 100)),
    NAMES,
)
def test_a_key_never_has_more_rights_than_the_key_that_makes_it(
    models, requested, scopes, requested_scopes, tenant, limit, expiry, name
) -> None:
    creator = Principal("me", "t", frozenset(scopes), tuple(models), "key:k", limit, "admin")
    try:
        grant = decide(creator, KeyRequest("", sorted(requested_scopes), requested, tenant, expiry), now=0)
    except SageError:
        return
    child = Principal("me", grant.tenant, frozenset(grant.scopes), grant.models, "key:c", grant.expires_at, "admin")
    assert child.scopes <= creator.scopes
    assert child.tenant == creator.tenant
    assert not child.allows_model(name) or creator.allows_model(name)
    assert limit is None or (child.expires_at is not None and child.expires_at <= limit)


@pytest.mark.parametrize(
    ("parent", "child", "covered"),
    [
        ("*", "gpt-*", True),
        ("gpt-*", "*", False),
        ("gpt-*", "gpt-4*", True),
        ("gpt-*", "gpt-4", True),
        ("gpt-4", "gpt-*", False),
        ("a*b", "a*c*b", True),
        ("a*c*b", "a*b", False),
        ("*/*", "openai/*", True),
    ],
)
def test_covering_by_example(parent: str, child: str, covered: bool) -> None:
    assert covers(parent, child) is covered


@pytest.mark.parametrize("pattern", ["gpt-?", "[ab]", "", " ", "a b", "a\n", "\0", "x" * 257, "*" * 9])
def test_malformed_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_patterns([pattern])
    assert caught.value.param == "models"


def test_a_key_without_options_has_the_rights_of_its_user_except_admin_and_worker(
    accounts: Accounts, root: str
) -> None:
    made = accounts.keys.create_for(root, KeyRequest())
    caller = principal(accounts, made.secret)
    assert caller.scopes == frozenset(Scope) - {Scope.ADMIN, Scope.TENANT_ADMIN, Scope.TOOLS_WRITE, Scope.WORKER}
    assert (caller.user, caller.tenant, caller.models, caller.expires_at) == ("root", "default", ("*",), None)
    assert caller.credential == f"key:{made.key.id}"
    assert caller.by_key


def test_a_key_has_its_scopes_models_tenant_and_expiry(accounts: Accounts, root: str, clock) -> None:
    key_request = KeyRequest("ci", ["generate"], ["gpt-*"], "lab", int(clock.now) + 60)
    secret = accounts.keys.create_for(root, key_request).secret
    caller = principal(accounts, secret)
    assert (caller.scopes, caller.models, caller.tenant) == (frozenset({Scope.GENERATE}), ("gpt-*",), "lab")
    assert caller.expires_at == clock.now + 60
    clock.now += 59.9
    assert principal(accounts, secret) == caller
    clock.now += 0.1
    assert refusal(accounts, secret) == "the API key is not valid: it has expired"


def test_only_the_hash_is_stored(accounts: Accounts, root: str) -> None:
    made = accounts.keys.create_for(root, KeyRequest("ci"))
    assert made.secret not in repr(made)
    with accounts.database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM api_keys")).all()
    stored = b"".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
    assert made.secret.encode() not in stored
    assert made.secret[21:40].encode() not in stored
    assert hash_key(made.secret) in stored
    (listed,) = accounts.keys.list(root)
    assert (listed.id, listed.name, listed.last4) == (made.key.id, "ci", made.secret[-4:])


def test_a_wrong_secret_for_a_real_id_is_unknown(accounts: Accounts, root: str) -> None:
    real, other = accounts.keys.create_for(root, KeyRequest()), make_key()
    body = f"sk-sage-{real.key.id}-{other.text[21:61]}"
    assert refusal(accounts, body + _checksum(body)) == refusal(accounts, other.text)
    assert "mistyped" in refusal(accounts, other.text[:-1] + "!")


def test_the_current_role_bounds_an_old_key(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("second", password, role="admin")
    secret = accounts.keys.create_for("second", KeyRequest(scopes=["generate", "models:write", "admin"])).secret
    assert Scope.ADMIN in principal(accounts, secret).scopes
    accounts.users.change("second", role="user")
    assert principal(accounts, secret).scopes == {Scope.GENERATE}
    assert principal(accounts, secret).role == "user"


def test_a_key_of_another_tenant_is_refused_without_its_owners_admin_role(
    accounts: Accounts, root: str, password: str
) -> None:
    accounts.users.add("second", password, role="admin")
    secret = accounts.keys.create_for("second", KeyRequest(tenant="lab")).secret
    accounts.users.change("second", role="user")
    assert "has moved to another tenant" in refusal(accounts, secret)
    with pytest.raises(PermissionDenied, match="only an admin's login"):
        accounts.keys.create_for("second", KeyRequest(tenant="lab"))


def test_a_disabled_users_keys_are_refused_until_it_is_enabled(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("bob", password)
    secret = accounts.keys.create_for("bob", KeyRequest()).secret
    accounts.users.change("bob", disabled=True)
    assert "its user is disabled" in refusal(accounts, secret)
    with pytest.raises(Conflict, match="disabled"):
        accounts.keys.create_for("bob", KeyRequest())
    accounts.users.change("bob", disabled=False)
    assert principal(accounts, secret).user == "bob"


def test_a_key_cannot_give_rights_that_it_lacks(accounts: Accounts, root: str, clock) -> None:
    limit = int(clock.now) + 100
    parent = accounts.keys.create_for(root, KeyRequest("p", ["generate", "account"], ["gpt-*", "x"], None, limit))
    maker = principal(accounts, parent.secret)
    for key_request, param in [
        (KeyRequest(scopes=["models:read"]), "scopes"),
        (KeyRequest(scopes=["generate", "admin"]), "scopes"),
        (KeyRequest(models=["*"]), "models"),
        (KeyRequest(models=["gpt-4", "y"]), "models"),
        (KeyRequest(tenant="lab"), "tenant"),
        (KeyRequest(expires_at=limit + 1), "expires_at"),
    ]:
        with pytest.raises(PermissionDenied) as caught:
            accounts.keys.create(maker, key_request)
        assert caught.value.param == param
    child = principal(accounts, accounts.keys.create(maker, KeyRequest()).secret)
    assert (child.scopes, child.models, child.tenant) == (maker.scopes, maker.models, maker.tenant)
    assert child.expires_at == limit
    assert len(accounts.keys.list()) == 2


@pytest.mark.parametrize(
    ("key_request", "param"),
    [
        (KeyRequest(scopes=["everything"]), "scopes"),
        (KeyRequest(scopes=[]), "scopes"),
        (KeyRequest(models=[]), "models"),
        (KeyRequest(models=["gpt-?"]), "models"),
        (KeyRequest(expires_at=5), "expires_at"),
        (KeyRequest(name="x" * 101), "name"),
        (KeyRequest(tenant="a b"), "tenant"),
    ],
)
def test_key_requests_without_sense_are_refused(
    accounts: Accounts, root: str, key_request: KeyRequest, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        accounts.keys.create_for(root, key_request)
    assert caught.value.param == param
    assert accounts.keys.list() == []


def test_revoking_a_key_revokes_all_that_it_made(accounts: Accounts, root: str) -> None:
    first = accounts.keys.create_for(root, KeyRequest("first"))
    second = accounts.keys.create(principal(accounts, first.secret), KeyRequest("second"))
    third = accounts.keys.create(principal(accounts, second.secret), KeyRequest("third"))
    apart = accounts.keys.create_for(root, KeyRequest("apart"))
    maker = principal(accounts, second.secret)
    before = accounts.database.revision
    accounts.keys.revoke(first.key.id)
    assert accounts.database.revision == before + 1
    for made in (first, second, third):
        assert refusal(accounts, made.secret) == "the API key is not valid: it has been revoked"
    assert principal(accounts, apart.secret).user == "root"
    with pytest.raises(PermissionDenied, match="has been revoked"):  # a caller verified just before
        accounts.keys.create(maker, KeyRequest())


def test_keys_of_other_users_are_not_found_without_admin(accounts: Accounts, root: str, password: str) -> None:
    accounts.users.add("bob", password)
    roots = accounts.keys.create_for(root, KeyRequest(scopes=["admin"]))
    bobs = accounts.keys.create_for("bob", KeyRequest())
    bob, admin = principal(accounts, bobs.secret), principal(accounts, roots.secret)
    with pytest.raises(NotFound) as hidden:
        accounts.keys.revoke(roots.key.id, bob)
    with pytest.raises(NotFound) as absent:
        accounts.keys.revoke("a" * 12, bob)
    assert hidden.value.message.replace(roots.key.id, "") == absent.value.message.replace("a" * 12, "")
    assert principal(accounts, roots.secret) == admin
    assert accounts.keys.revoke(bobs.key.id, admin).revoked_at is not None
    assert "revoked" in refusal(accounts, bobs.secret)


def test_roles_have_their_scopes() -> None:
    everyday = {Scope.GENERATE, Scope.SEARCH, Scope.COLLECTIONS_WRITE, Scope.MODELS_READ, Scope.ACCOUNT}
    everyday |= {Scope.KV, Scope.VDB, Scope.MEMORY, Scope.TASKS, Scope.TOOLS, Scope.USAGE}
    assert ROLES["viewer"] == {Scope.SEARCH, Scope.MODELS_READ, Scope.ACCOUNT, Scope.USAGE}
    assert ROLES["user"] == everyday
    assert ROLES["owner"] == everyday | {Scope.TENANT_ADMIN}
    assert ROLES["admin"] == set(Scope)
