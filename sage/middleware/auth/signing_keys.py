"""The keys that sign access tokens: the files ``keys/*.pem`` of the installation. The highest number signs, all of them
verify."""

from __future__ import annotations

import base64
import hashlib
import json
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

from sage.errors import ConfigError
from sage.middleware.database.shared_files import SharedFiles

_FIRST = "0001.pem"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A P-256 key with its only algorithm. ``kid`` is the RFC 7638 thumbprint."""

    kid: str
    public_jwk: dict[str, str]
    private_pem: str = field(repr=False)
    algorithm: str = "ES256"


class KeySet:
    """The keys among ``files``, made on first use; processes that start at once agree on one key.

    To change keys, put a P-256 key in PEM (PKCS #8) beside the first under a higher number and restart; take the old
    one away when the tokens it signed have expired. Raises :class:`ConfigError` for a file that is no such key or
    that others may read.
    """

    def __init__(self, files: SharedFiles) -> None:
        names = files.names("*.pem")
        if not names:
            files.add(_FIRST, _new_pem())
            names = files.names("*.pem")
        keys = [_load(files, name) for name in names]
        self._keys = {key.kid: key for key in keys}
        self.signer = keys[-1]

    def find(self, kid: str) -> SigningKey | None:
        """The key of that ``kid``."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public parts as a JSON Web Key Set (RFC 7517)."""
        return {
            "keys": [
                {**key.public_jwk, "kid": key.kid, "alg": key.algorithm, "use": "sig"} for key in self._keys.values()
            ]
        }


def thumbprint(jwk: dict[str, str]) -> str:
    """The RFC 7638 thumbprint of an EC key."""
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"), sort_keys=True)
    return _b64(hashlib.sha256(text.encode()).digest())


def _new_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


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
    return SigningKey(thumbprint(jwk), jwk, pem.decode("ascii"))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
