"""The cache of verified credentials: what it keeps, and that it lets go in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from waiting import until

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.credentials import Verified
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.tokens import Tokens

pytestmark = pytest.mark.both_databases


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def following(accounts: Accounts, main: Callable[[Authenticator], Awaitable[None]], **options: int) -> None:
    """Runs ``main`` while the authenticator follows the revision."""

    async def run() -> None:
        authenticator = Authenticator(accounts, **options)  # type: ignore[arg-type]
        follower = asyncio.create_task(authenticator.follow())
        try:
            probe = bearer(accounts.sessions.issue("root"))
            await authenticator.authenticate(probe)
            await until(lambda: authenticator.cached(probe) is not None)
            await main(authenticator)
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        assert authenticator.cached(probe) is None  # nobody looks at the revision any more

    asyncio.run(run())


def test_a_verified_credential_is_cached_and_an_unknown_one_is_not(accounts: Accounts, root: str) -> None:
    secret = accounts.keys.create_for(root, KeyRequest()).secret

    async def main(authenticator: Authenticator) -> None:
        assert authenticator.cached(bearer(secret)) is None
        caller = await authenticator.authenticate(bearer(secret))
        assert authenticator.cached(bearer(secret)) is caller
        for wrong in (secret[:-1], secret + "x", secret.upper(), ""):
            assert authenticator.cached(bearer(wrong)) is None
            with pytest.raises(AuthenticationFailed):
                await authenticator.authenticate(bearer(wrong))
            assert authenticator.cached(bearer(wrong)) is None

    following(accounts, main)


def test_the_cache_compares_the_whole_credential(accounts: Accounts, root: str) -> None:
    token = accounts.sessions.issue(root)
    middle = len(token) // 2
    twin = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    assert (twin[:20], twin[-20:]) == (token[:20], token[-20:])

    async def main(authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(token))
        assert authenticator.cached(bearer(token)) is not None
        assert authenticator.cached(bearer(twin)) is None
        with pytest.raises(AuthenticationFailed):
            await authenticator.authenticate(bearer(twin))

    following(accounts, main)


def test_without_the_follower_every_request_gets_the_full_check(accounts: Accounts, root: str) -> None:
    async def main() -> None:
        authenticator = Authenticator(accounts)
        header = bearer(accounts.sessions.issue(root))
        assert (await authenticator.authenticate(header)).user == "root"
        assert authenticator.cached(header) is None

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revoke", "reason"),
    [
        (lambda other, key: other.keys.revoke(key.id), "has been revoked"),
        (lambda other, key: other.users.change("bob", disabled=True), "user is disabled"),
        (lambda other, key: other.users.change("bob", role="user"), None),
    ],
)
def test_rights_that_another_process_removes_are_refused_within_a_second(
    accounts, root, password, data_dir, database_url, revoke, reason
) -> None:
    accounts.users.add("bob", password, role="admin")
    made = accounts.keys.create_for("bob", KeyRequest(scopes=["admin"]))
    other = Accounts(data_dir, url=database_url)

    async def main(authenticator: Authenticator) -> None:
        before = await authenticator.authenticate(bearer(made.secret))
        assert authenticator.cached(bearer(made.secret)) is before
        await asyncio.to_thread(revoke, other, made.key)
        took = await until(lambda: authenticator.cached(bearer(made.secret)) is None)
        assert took < 1.0
        if reason is None:
            assert (await authenticator.authenticate(bearer(made.secret))).scopes == frozenset()
            return
        with pytest.raises(AuthenticationFailed, match=reason):
            await authenticator.authenticate(bearer(made.secret))

    following(accounts, main)
    other.close()


def test_all_who_come_while_a_credential_is_verified_share_one_check(accounts: Accounts, root: str) -> None:
    checked: list[bytes | None] = []

    class Counting(Authenticator):
        async def verify(self, authorization: bytes | None) -> Verified:
            checked.append(authorization)
            return await super().verify(authorization)

    async def main() -> None:
        authenticator = Counting(accounts)  # that nobody follows: nothing is taken from the cache
        good, wrong = bearer(accounts.keys.create_for(root, KeyRequest()).secret), bearer("sage_wrong")
        callers = await asyncio.gather(*(authenticator.authenticate(good) for _ in range(20)))
        assert {caller.user for caller in callers} == {root}
        assert checked == [good]
        await authenticator.authenticate(good)
        assert checked == [good] * 2  # the check was over

        leaving = asyncio.create_task(authenticator.authenticate(good))
        others = [asyncio.create_task(authenticator.authenticate(good)) for _ in range(3)]
        await asyncio.sleep(0)
        leaving.cancel()
        assert {caller.user for caller in await asyncio.gather(*others)} == {root}
        assert leaving.cancelled()

        refused = await asyncio.gather(*(authenticator.authenticate(wrong) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in refused] == [AuthenticationFailed] * 3
        assert len({id(error) for error in refused}) == 3  # each its own: a traceback is not shared

    asyncio.run(main())


def test_no_check_that_began_before_a_revocation_is_shared_after_it(accounts: Accounts, root: str) -> None:
    made = accounts.keys.create_for(root, KeyRequest())
    may_end = asyncio.Event()

    class Slow(Authenticator):
        async def verify(self, authorization: bytes | None) -> Verified:
            verified = await super().verify(authorization)
            await may_end.wait()
            return verified

    async def main() -> None:
        authenticator = Slow(accounts)
        before = asyncio.create_task(authenticator.authenticate(bearer(made.secret)))
        await asyncio.sleep(0)
        await asyncio.to_thread(accounts.keys.revoke, made.key.id)
        after = asyncio.create_task(authenticator.authenticate(bearer(made.secret)))
        with pytest.raises(AuthenticationFailed):
            await asyncio.wait_for(after, 10)
        may_end.set()
        await asyncio.gather(before, return_exceptions=True)  # whichever came first, its check or the revocation

    asyncio.run(main())


def test_rights_that_this_process_removes_are_refused_at_once(accounts: Accounts, root: str) -> None:
    made = accounts.keys.create_for(root, KeyRequest())

    async def main(authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(made.secret))
        assert authenticator.cached(bearer(made.secret)) is not None
        accounts.keys.revoke(made.key.id)
        assert authenticator.cached(bearer(made.secret)) is None  # no time for the follower to have looked
        with pytest.raises(AuthenticationFailed, match="revoked"):
            await authenticator.authenticate(bearer(made.secret))

    following(accounts, main)


def test_a_check_that_began_before_a_revocation_is_not_cached(accounts: Accounts, root: str) -> None:
    made = accounts.keys.create_for(root, KeyRequest())
    verify, read, release = accounts.verifier.verify, threading.Event(), threading.Event()

    def slow(credential: str) -> Verified:
        verified = verify(credential)
        if credential == made.secret:
            read.set()
            release.wait(10)
        return verified

    async def main(authenticator: Authenticator) -> None:
        accounts.verifier.verify = slow  # type: ignore[method-assign]
        checking = asyncio.create_task(authenticator.authenticate(bearer(made.secret)))
        await until(read.is_set)
        accounts.keys.revoke(made.key.id)
        probe = bearer(accounts.sessions.issue(root))
        await authenticator.authenticate(probe)
        await until(lambda: authenticator.cached(probe) is not None)  # the revocation is known here now
        release.set()
        await checking
        assert authenticator.cached(bearer(made.secret)) is None
        assert authenticator.cached(probe) is not None

    following(accounts, main)


def test_an_expired_credential_is_not_taken_from_the_cache(accounts: Accounts, root: str, clock) -> None:
    key = bearer(accounts.keys.create_for(root, KeyRequest(expires_at=int(clock.now) + 100)).secret)
    token = bearer(accounts.sessions.issue(root))

    async def main(authenticator: Authenticator) -> None:
        for header, seconds, words in ((key, 100, "has expired"), (token, 800, "token has expired")):
            await authenticator.authenticate(header)
            clock.now += seconds - 1
            assert authenticator.cached(header) is not None
            clock.now += 1
            assert authenticator.cached(header) is None
            with pytest.raises(AuthenticationFailed, match=words):
                await authenticator.authenticate(header)

    following(accounts, main)


def test_the_cache_is_bounded_and_keeps_the_most_recently_used(accounts: Accounts, root: str) -> None:
    headers = [bearer(accounts.keys.create_for(root, KeyRequest()).secret) for _ in range(4)]

    async def main(authenticator: Authenticator) -> None:
        for header in headers[:3]:
            await authenticator.authenticate(header)
        assert authenticator.cached(headers[0]) is not None
        await authenticator.authenticate(headers[3])
        kept = [authenticator.cached(header) is not None for header in headers]
        assert kept == [True, False, True, True]

    following(accounts, main, capacity=3)


@pytest.mark.slow
def test_the_cache_is_not_used_when_the_revision_cannot_be_read(accounts: Accounts, root: str) -> None:
    header = bearer(accounts.keys.create_for(root, KeyRequest()).secret)
    read = accounts.database.read_revision

    def broken() -> int:
        raise OSError("the disk is gone")

    async def main(authenticator: Authenticator) -> None:
        await authenticator.authenticate(header)
        accounts.database.read_revision = broken  # type: ignore[method-assign]
        await until(lambda: authenticator.cached(header) is None)
        accounts.database.read_revision = read  # type: ignore[method-assign]
        assert (await authenticator.authenticate(header)).user == "root"
        await until(lambda: authenticator.cached(header) is not None)

    following(accounts, main)


@pytest.mark.slow
def test_a_read_of_the_revision_that_hangs_makes_the_cache_stale_within_a_second(accounts: Accounts, root: str) -> None:
    header = bearer(accounts.keys.create_for(root, KeyRequest()).secret)
    release, read = threading.Event(), accounts.database.read_revision

    def hanging() -> int:
        release.wait(10)
        return read()

    async def main(authenticator: Authenticator) -> None:
        await authenticator.authenticate(header)
        accounts.database.read_revision = hanging  # type: ignore[method-assign]
        took = await until(lambda: authenticator.cached(header) is None)
        assert took < 2.0
        release.set()
        accounts.database.read_revision = read  # type: ignore[method-assign]
        await until(lambda: authenticator.cached(header) is not None)

    following(accounts, main)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_credential"),
        (b"", "missing_credential"),
        (b"Basic cm9vdDpyb290", "wrong_scheme"),
        (b"Bearer", "invalid_token"),
        (b"Bearer ", "invalid_token"),
        (b"Bearer\tx", "wrong_scheme"),
        (b"Bearer a b", "invalid_token"),
        (b"Bearer \xff\xfe", "invalid_token"),
        (b"Bearer " + b"x" * 9000, "invalid_token"),
        (b"Bearer sk-sage-nope", "invalid_api_key"),
    ],
)
def test_headers_without_a_key_or_token_are_refused(accounts, header: bytes | None, code: str) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        asyncio.run(Authenticator(accounts).authenticate(header))
    assert caught.value.code == code


def test_the_scheme_may_be_in_upper_or_lower_case(accounts: Accounts, root: str) -> None:
    token = accounts.sessions.issue(root)
    for scheme in ("Bearer", "bearer", "BEARER"):
        caller = asyncio.run(Authenticator(accounts).authenticate(f"{scheme} {token}".encode()))
        assert caller.user == "root"


def test_the_follower_lets_a_setup_token_expire(data_dir: Path, clock) -> None:
    accounts = Accounts(data_dir, clock=clock)
    path = accounts.prepare_setup()
    assert path is not None

    async def main() -> None:
        follower = asyncio.create_task(Authenticator(accounts).follow())
        clock.now += 15 * 60
        await until(lambda: not path.exists())
        follower.cancel()

    asyncio.run(main())
    accounts.close()


def test_a_token_of_another_installation_is_refused(accounts: Accounts, root: str, tmp_path: Path, clock) -> None:
    elsewhere = Accounts(tmp_path / "elsewhere", clock=clock)
    assert isinstance(elsewhere.tokens, Tokens)
    session = accounts.verifier.verify(accounts.sessions.issue(root)).principal.session
    assert session is not None
    with pytest.raises(AuthenticationFailed, match="key that is not ours"):
        accounts.verifier.verify(elsewhere.tokens.make(root, session, 60))
    elsewhere.close()
