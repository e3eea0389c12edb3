"""The files of signing keys, as far as they can be looked at without the libraries that read and use them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/=\n]+)-----END PRIVATE KEY-----\n")

# PKCS #8 (RFC 5208) with an ECPrivateKey (RFC 5915) of the curve P-256, its secret and its point.
_DER = re.compile(
    re.escape(bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"))
    + rb".{32}"
    + re.escape(bytes.fromhex("a14403420004"))
    + rb".{64}",
    re.DOTALL,
)


def are_private_keys(directory: Path) -> bool:
    """Whether each key below ``directory`` is a P-256 key in a private file, as we and OpenSSL make them.

    ``False`` also for keys in other forms, and for files that cannot be read: :class:`.signing_keys.KeySet` can tell.
    """
    return all(_is_private_key(path) for path in directory.glob("*.pem"))


def _is_private_key(path: Path) -> bool:
    try:
        if path.stat().st_mode & 0o077:
            return False
        pem = _PEM.fullmatch(path.read_bytes())
        return pem is not None and _DER.fullmatch(base64.b64decode(pem[1])) is not None
    except (OSError, ValueError):
        return False
