"""Everything about the accounts of one installation, put together on its data directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.login_failures import LoginFailures
from sage.middleware.auth.api_keys.api_keys import ApiKeys
from sage.middleware.auth.api_keys.last_use import KeyUse
from sage.middleware.auth.changes import AccountChange, Changes, audit_event, nobody
from sage.middleware.auth.credentials import Verifier
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.first_admin import FirstAdmin
from sage.middleware.auth.job_tokens import JobTokens
from sage.middleware.auth.key_files import are_private_keys
from sage.middleware.auth.login_throttle import LoginThrottle
from sage.middleware.auth.models import KeyRow, TenantRow, UserRow
from sage.middleware.auth.own_password import OwnPassword
from sage.middleware.auth.passwords import HashCost, Passwords
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.sessions import LONGEST_PAGE_TOKEN, LoginSessions
from sage.middleware.auth.teams.teams import Teams
from sage.middleware.auth.users import Users
from sage.middleware.database.installation import open_shared_files
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.settings import Auth
from sage.private_files import make_private_dir

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sage.middleware.auth.oidc.single_sign_on import SingleSignOn
    from sage.middleware.auth.signing_keys import KeySet, SigningKey
    from sage.middleware.auth.tokens import Tokens


class Accounts:
    """Users, teams, API keys and sessions in ``data_dir``: for the server, and for the command line beside it.

    All calls block on the database. Those that hash a password (``users.add``, ``users.change`` with a password,
    ``own_password.change``, ``sessions.login``, ``first_admin.complete``) go through ``await passwords.run(…)`` in a
    server, those that check one also through ``throttle``. ``clock`` gives Unix seconds; ``hash_cost`` is for tests.
    With ``url`` they are in PostgreSQL. Raises :class:`sage.errors.ConfigError` when the directory, a file in it or the
    database cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        auth: Auth | None = None,
        clock: Callable[[], float] = time.time,
        *,
        hash_cost: HashCost | None = None,
        url: DatabaseUrl | None = None,
    ) -> None:
        auth = auth or Auth()
        self.clock = clock
        self._oidc = auth.oidc
        self._signing_key_max_age = auth.signing_key_max_age
        self._longest_token = max(auth.access_token_ttl, LONGEST_PAGE_TOKEN)
        make_private_dir(data_dir)
        self._keys = open_shared_files(data_dir, "keys", url)
        if not are_private_keys(self._keys):
            self._key_set()  # raises what is wrong with a file now, not at the first login
        self.passwords = Passwords(hash_cost)
        self.throttle = LoginThrottle()
        self.database = AccountsDatabase(data_dir, url=url)
        self.audit = AuditLog(data_dir, url, clock)
        self.audit.open()
        self.changes = Changes()
        self.changes.on_change = self._write_down
        self.users = Users(self.database, self.passwords, clock, self.changes)
        self.own_password = OwnPassword(self.database, self.passwords, clock, self.changes)
        self.keys = ApiKeys(self.database, clock, self.changes)
        self.key_use = KeyUse(self.database)
        self.teams = Teams(self.database, clock, self.changes)
        self.sessions = LoginSessions(
            self.database,
            self.passwords,
            lambda: self.tokens,
            clock,
            self.changes,
            access_ttl=auth.access_token_ttl,
            refresh_ttl=auth.refresh_token_ttl,
        )
        self.job_tokens = JobTokens(self._keys, clock)
        self.verifier = Verifier(self.database, lambda: self.tokens, self.job_tokens, clock, auth.default_limits())
        self.first_admin = FirstAdmin(self.users, data_dir / "setup-token", clock)
        self.login_failures = LoginFailures(self.audit, self.users.name_and_tenant)
        self.throttle.on_failure = self.login_failures.add

    def _write_down(self, session: Session, change: AccountChange) -> None:
        self.audit.append_in(session.connection(), audit_event(change))

    @cached_property
    def tokens(self) -> Tokens:
        """Access tokens, whose signing key is made when the first is made or read."""
        # 9 MiB and a tenth of a second, which a gateway does without while its callers have API keys.
        from sage.middleware.auth.tokens import Tokens

        return Tokens(self._key_set(lambda: self.database.revision), self.clock)

    def _key_set(self, revision: Callable[[], int] = int) -> KeySet:
        from sage.middleware.auth.signing_keys import KeySet

        return KeySet(self._keys, self.clock, overlap=self._longest_token, revision=revision)

    @property
    def has_single_sign_on(self) -> bool:
        """Whether a provider is configured."""
        return self._oidc is not None

    @cached_property
    def single_sign_on(self) -> SingleSignOn | None:
        """The logins of the configured OpenID provider; ``None`` means that there is none."""
        if self._oidc is None:
            return None
        from sage.middleware.auth.oidc.single_sign_on import SingleSignOn

        return SingleSignOn(self._oidc, self.database, self.sessions, self.verifier, self.changes, self.clock)

    def rotate_signing_key(self, by: Principal | None = None, *, at_once: bool = False) -> str:
        """Makes the next key that signs access tokens, and returns its id; all gateways know of it within a second.

        The one before verifies until its tokens have expired; with ``at_once`` it does so no more.
        """
        keys = self.tokens.keys
        key = keys.rotate()
        if at_once:
            keys.remove_retired(at_once=True)
        self._tell_signing_key(key, by, at_once=at_once)
        return key.kid

    def keep_signing_keys(self) -> None:
        """To be called now and then: replaces a key that is older than ``auth.signing_key_max_age``, and removes those
        whose tokens have all expired. Does nothing while nobody has used an access token."""
        if "tokens" not in self.__dict__:
            return
        replacement = self.tokens.keys.replace_older_than(self._signing_key_max_age)
        if replacement is not None:
            self._tell_signing_key(replacement, nobody(), at_once=False)
        self.tokens.keys.remove_retired()

    def _tell_signing_key(self, key: SigningKey, by: Principal | None, *, at_once: bool) -> None:
        with self.database.write() as session:
            self.database.bump(session)
            self.changes.tell(session, by, "signing_key.rotate", f"signing_key:{key.kid}", "", {"at_once": at_once})

    def has_limits(self) -> bool:
        """Whether any user, key or team has limits of its own."""
        columns = (UserRow.limits, KeyRow.limits, TenantRow.limits, TenantRow.member_limits)
        with self.database.read() as session:
            return any(session.execute(select(1).where(each.is_not(None)).limit(1)).first() for each in columns)

    def prepare_setup(self) -> Path | None:
        """To be called when the server starts: the file with a new setup token, or ``None`` when there are users."""
        return self.first_admin.prepare()

    def close(self) -> None:
        """Closes the database and ends the threads that hash passwords."""
        self.passwords.close()
        self._keys.close()
        self.audit.close()
        self.database.close()
