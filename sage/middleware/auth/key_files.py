"""The files of signing keys, as far as they can be looked at without the libraries that read and use them."""

from __future__ import annotations

import base64
import re

from sage.errors import SageError
from sage.middleware.database.shared_files import SharedFiles

_CREATED = re.compile(rb"Created: (\d{1,12})\n")
_PEM = re.compile(
    rb"(?:Created: \d{1,12}\n)?-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/=\n]+)-----END PRIVATE KEY-----\n"
)

# PKCS #8 (RFC 5208) with an ECPrivateKey (RFC 5915) of the curve P-256, its secret and its point.
_DER = re.compile(
    re.escape(bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"))
    + rb".{32}"
    + re.escape(bytes.fromhex("a14403420004"))
    + rb".{64}",
    re.DOTALL,
)


def key_file(number: int) -> str:
    """The name of the file of the key of that number."""
    return f"{number:04d}.pem"


def created_at(pem: bytes, version: int) -> float:
    """When a key was made, in Unix seconds, as the line before it says (RFC 7468, 5.2, allows some), else when its file
    was written: ``version``, in nanoseconds."""
    found = _CREATED.match(pem)
    return version / 1e9 if found is None else float(found[1])


def are_private_keys(files: SharedFiles) -> bool:
    """Whether each signing key among ``files`` is a P-256 key in a private file, as we and OpenSSL make them.

    ``False`` also for keys in other forms, and for files that cannot be read: :class:`.signing_keys.KeySet` can tell.
    """
    return all(_is_private_key(files, name) for name in files.names("*.pem"))


def _is_private_key(files: SharedFiles, name: str) -> bool:
    try:
        files.check_private(name)
        pem = _PEM.fullmatch(files.read(name) or b"")
        return pem is not None and _DER.fullmatch(base64.b64decode(pem[1])) is not None
    except (SageError, ValueError):
        return False
