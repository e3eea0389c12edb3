"""The keys that sign access tokens: the files ``keys/*.pem`` of the installation, each replaced by the next number.

A new key signs once every gateway knows of it (:data:`SIGNS_AFTER`), and the one before it verifies until the longest
token that it can have signed has expired. Then its file is removed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sage.errors import ConfigError, SageError
from sage.middleware.auth.key_files import created_at, key_file
from sage.middleware.database.shared_files import SharedFiles

logger = logging.getLogger("sage")

SIGNS_AFTER = 3
"""Seconds from a key's making to its first signature. Gateways look for new keys four times a second; they have as long
again before anything is refused."""
LOOK_EVERY = 1.0
"""Seconds at least between two looks for the key of a token that no known key has signed."""

_NUMBER = re.compile(r"(\d+)\.pem")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A P-256 key with its only algorithm. ``kid`` is the RFC 7638 thumbprint, ``created_at`` in Unix seconds."""

    kid: str
    public_jwk: dict[str, str]
    private_pem: str = field(repr=False)
    created_at: float = 0.0
    algorithm: str = "ES256"


class KeySet:
    """The keys among ``files``, the first made on first use; processes that start at once agree on one key.

    ``overlap`` is the longest life of an access token in seconds. Another ``revision`` than before means that the keys
    may have changed. Its calls may block. Raises :class:`ConfigError` for a file that is no such key or that others may
    read. Safe to use from several threads.
    """

    def __init__(
        self,
        files: SharedFiles,
        clock: Callable[[], float] = time.time,
        *,
        overlap: float = 0.0,
        revision: Callable[[], int] = int,
    ) -> None:
        self._files = files
        self._clock = clock
        self._overlap = overlap
        self._newest_revision = revision
        self._lock = threading.Lock()
        self._by_name: dict[str, SigningKey] = {}
        self._revision = revision()
        self._looked_at = clock()
        if not files.names("*.pem"):
            files.add(key_file(1), _new_pem(clock()))
        self._keys = self._load()

    @property
    def signer(self) -> SigningKey:
        """The key that signs now: the newest that every gateway knows of."""
        keys, now = self._current(), self._clock()
        return next((key for key in reversed(keys) if key.created_at + SIGNS_AFTER <= now), keys[0])

    def find(self, kid: str) -> SigningKey | None:
        """The key of that ``kid``, unless it has been replaced for so long that no token of it can be valid."""
        found = self._among(self._current(), kid)
        if found is None and not 0 <= self._clock() - self._looked_at < LOOK_EVERY:
            found = self._among(self._look(), kid)  # somebody put it there without saying so
        return found

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public parts as a JSON Web Key Set (RFC 7517)."""
        keys = self._current()
        return {
            "keys": [
                {**key.public_jwk, "kid": key.kid, "alg": key.algorithm, "use": "sig"}
                for key in keys
                if self._is_good(keys, key)
            ]
        }

    def rotate(self) -> SigningKey:
        """Makes the next key; of several processes that do so at once, one succeeds and all get its key."""
        self._add_after(self._files.names("*.pem"))
        return self._look()[-1]

    def replace_older_than(self, max_age: float) -> SigningKey | None:
        """Makes the next key if the newest one is older than ``max_age`` seconds; ``None`` if it is not, and where
        another process has replaced the same one."""
        names = self._files.names("*.pem")  # before the look: what is replaced is the key that was found too old
        if self._clock() - self._look()[-1].created_at <= max_age or not self._add_after(names):
            return None
        return self._look()[-1]

    def remove_retired(self, *, at_once: bool = False) -> None:
        """Removes the files of keys of which no token can be valid; ``at_once`` all but the newest, whose tokens are
        then refused."""
        keys = self._look()
        for name, key in list(self._by_name.items()):
            if not self._is_good(keys, key) or (at_once and key is not keys[-1]):
                self._files.remove(name)

    def _add_after(self, names: Sequence[str]) -> bool:
        number = max((int(found[1]) for found in map(_NUMBER.fullmatch, names) if found is not None), default=0) + 1
        return self._files.add(key_file(number), _new_pem(self._clock()))

    def _among(self, keys: tuple[SigningKey, ...], kid: str) -> SigningKey | None:
        return next((key for key in keys if key.kid == kid and self._is_good(keys, key)), None)

    def _is_good(self, keys: tuple[SigningKey, ...], key: SigningKey) -> bool:
        following = keys[keys.index(key) + 1 :]
        ends_at = min((each.created_at for each in following), default=float("inf")) + SIGNS_AFTER + self._overlap
        return self._clock() < ends_at

    def _current(self) -> tuple[SigningKey, ...]:
        return self._keys if self._newest_revision() == self._revision else self._look()

    def _look(self) -> tuple[SigningKey, ...]:
        """The keys that are there now; those that were known before, when there is a bad one among them."""
        self._revision, self._looked_at = self._newest_revision(), self._clock()  # before the look
        try:
            self._keys = self._load()
        except SageError as exc:
            logger.warning("the signing keys stay as they were: %s", exc.message)
        return self._keys

    def _load(self) -> tuple[SigningKey, ...]:
        """In the order of their numbers."""
        with self._lock:
            names = self._files.names("*.pem")
            found = {name: self._by_name.get(name) or _load(self._files, name) for name in names}
            if not found:
                raise ConfigError(f"{self._files.place(key_file(1))} is gone; restart the gateway for new signing keys")
            self._by_name = found
            return tuple(found.values())


def thumbprint(jwk: dict[str, str]) -> str:
    """The RFC 7638 thumbprint of an EC key."""
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"), sort_keys=True)
    return _b64(hashlib.sha256(text.encode()).digest())


def _new_pem(now: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return b"Created: %d\n" % now + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(files: SharedFiles, name: str) -> SigningKey:
    files.check_private(name)
    pem = files.read(name) or b""
    key: Any = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):  # the error below does not repeat the parser's message
        key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            f"{files.place(name)} is not a P-256 private key in PEM; restore it, or remove it to have a new one made"
        )
    point = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": _b64(point.x.to_bytes(32, "big")), "y": _b64(point.y.to_bytes(32, "big"))}
    text = pem[pem.index(b"-----BEGIN") :].decode("ascii")
    return SigningKey(thumbprint(jwk), jwk, text, created_at(pem, files.version(name)))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
