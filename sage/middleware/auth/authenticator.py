"""The check of the caller: the one place that reads the ``Authorization`` header, and verifies what it says."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import time
from collections.abc import Callable
from hashlib import sha256

from sage.errors import AuthenticationFailed, SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.api_keys.last_use import WRITE_EVERY
from sage.middleware.auth.credential_cache import CredentialCache, Verified
from sage.middleware.auth.credentials import job_principal
from sage.middleware.auth.job_tokens import PREFIX as JOB_PREFIX
from sage.middleware.auth.principal import MAX_BYTES, Asker, Principal, Scope
from sage.thread_pool import ThreadPool

logger = logging.getLogger("sage")

_KEEP_KEYS_EVERY = 60.0
_UNFIT = bytes([*range(33), 127])
"""Characters that no credential has."""
OUR_ISSUER = "sage-middleware"
"""As our own access tokens name us."""
_OWN_WORKER = Principal(
    user="worker", tenant="", scopes=frozenset({Scope.WORKER}), models=(), credential="worker", role="worker"
)


class Authenticator(CredentialCache):
    """Checks credentials against the accounts; belongs to one event loop.

    While :meth:`follow` does not run, or cannot read the revision, every request gets the full check.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        capacity: int = 10_000,
        interval: float = 0.25,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(accounts.database, accounts.clock, capacity=capacity, monotonic=monotonic)
        self.on_read: Callable[[], object] | None = None
        """Called whenever :meth:`follow` has read the revision, or could not."""
        self._accounts = accounts
        self._database = accounts.database
        self._interval = interval
        self._worker: bytes | None = None
        self._rights: dict[Asker, Verified] = {}

    def admit_worker(self, secret: str) -> None:
        """Lets the gateway's own worker in: a process of ours that was given ``secret``."""
        self._worker = sha256(f"Bearer {secret}".encode()).digest()

    async def verify(self, authorization: bytes | None) -> Verified:
        if authorization and self._is_own_worker(authorization):
            return Verified(_OWN_WORKER, self._revision)
        credential = _credential(authorization)
        if credential.startswith(JOB_PREFIX):
            verified = await self._verify_job(credential)
        elif self._accounts.has_single_sign_on and is_foreign_token(credential):
            sign_on = self._accounts.single_sign_on
            assert sign_on is not None
            verified = await sign_on.verify(credential)
        else:
            verified = await asyncio.to_thread(self._accounts.verifier.verify, credential)
        if authorization is not None:
            self._remember(authorization, verified)
        return verified

    async def verify_again(self, authorization: bytes, before: Principal) -> Verified:
        if self._is_own_worker(authorization):
            return Verified(_OWN_WORKER, self._revision)
        credential = _credential(authorization)
        return await asyncio.to_thread(self._accounts.verifier.verify_again, credential, before)

    def _is_own_worker(self, authorization: bytes) -> bool:
        return self._worker is not None and sha256(authorization).digest() == self._worker

    async def _verify_job(self, credential: str) -> Verified:
        """The credential of a job has the rights of its asker, which are known already, mostly."""
        claims = self._accounts.job_tokens.read(credential)
        owner = await self._verified_rights(claims.asker)
        return Verified(job_principal(owner.principal, claims), owner.revision)

    async def rights_of(self, asker: Asker) -> Principal:
        """What ``asker`` may do now; raises :class:`AuthenticationFailed` when it may not ask any more."""
        return (await self._verified_rights(asker)).principal

    async def _verified_rights(self, asker: Asker) -> Verified:
        known = self._rights.get(asker)
        if self._is_fresh and known is not None and known.revision == self._revision == self._database.revision:
            return known
        self._rights.pop(asker, None)
        verified = await asyncio.to_thread(self._accounts.verifier.rights_of, asker)
        self._observe(verified.revision)
        if len(self._rights) >= self._capacity:
            self._rights.clear()
        if verified.principal.expires_at is None:  # the rights of a key that expires are looked up each time
            self._rights[asker] = verified
        return verified

    async def tenant_of(self, user: str) -> str:
        """The tenant of a user; raises :class:`AuthenticationFailed` when there is no such user."""
        return await asyncio.to_thread(self._accounts.verifier.tenant_of, user)

    async def follow(self) -> None:
        """Reads the revision of rights every ``interval`` seconds until cancelled, lets the setup token expire,
        writes now and then when keys were used, and looks after the signing keys."""
        loop = asyncio.get_running_loop()
        thread = ThreadPool(1, "sage-revision")  # its own, so that other work does not delay it
        uses_written_at = keys_kept_at = self._monotonic()
        try:
            while True:
                started = self._monotonic()
                try:
                    revision = await loop.run_in_executor(thread, self._read_revision)
                except Exception:  # whatever it is, the cache may not be used now
                    self._revision_read_at = -math.inf
                    self._cache.clear()
                else:
                    self._observe(revision)
                    self._revision_read_at = started
                if self.on_read is not None:
                    self.on_read()
                if self.on_revision is not None:
                    self.on_revision()
                if started - uses_written_at >= WRITE_EVERY:
                    uses_written_at = started
                    await asyncio.to_thread(self._write_uses, self.take_uses())
                if started - keys_kept_at >= _KEEP_KEYS_EVERY:
                    keys_kept_at = started
                    await asyncio.to_thread(self._keep_signing_keys)
                await asyncio.sleep(self._interval)
        finally:
            self._revision_read_at = -math.inf
            thread.shutdown(wait=False, cancel_futures=True)
            self._write_uses(self.take_uses())

    def _read_revision(self) -> int:
        self._accounts.first_admin.expire()
        return self._database.read_revision()

    def _write_uses(self, uses: dict[str, float]) -> None:
        try:
            self._accounts.key_use.write(uses)
        except SageError:
            self.note_uses(uses)  # once the database is there again

    def _keep_signing_keys(self) -> None:
        try:
            self._accounts.keep_signing_keys()
        except SageError as exc:
            logger.warning("the signing keys could not be looked after: %s", exc.message)

    def _observe(self, revision: int) -> None:
        super()._observe(revision)
        self._database.advance(revision)


def is_foreign_token(credential: str) -> bool:
    """Whether it is a signed token (JWT) that does not say that it is ours; what it says is not checked here."""
    parts = credential.split(".")
    if len(parts) != 3:
        return False
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(claims, dict) and claims.get("iss") not in (None, OUR_ISSUER)


def _credential(authorization: bytes | None) -> str:
    if not authorization:
        raise AuthenticationFailed(
            "no credential: send 'Authorization: Bearer <API key or access token>' ('sage key add' makes a key, "
            "'sage token' prints a token)",
            code="missing_credential",
        )
    scheme, _, credential = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise AuthenticationFailed(
            "the Authorization header is not of the form 'Bearer <API key or access token>'", code="wrong_scheme"
        )
    credential = credential.strip(b" ")
    if len(credential) > MAX_BYTES:
        raise AuthenticationFailed(f"the credential is over {MAX_BYTES} bytes", code="invalid_token")
    if not credential or not credential.isascii() or len(credential.translate(None, _UNFIT)) != len(credential):
        raise AuthenticationFailed(
            "the credential is empty or has characters that no key or token has", code="invalid_token"
        )
    return credential.decode("ascii")
