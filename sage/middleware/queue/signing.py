"""Signatures of messages: with the key of the data directory, so that only its gateway can wake a worker with a job."""

from __future__ import annotations

import base64
import hmac
import secrets
from pathlib import Path

from sage.errors import ConfigError
from sage.private_files import make_private_dir, write_private

_KEY_BYTES = 32


class Signer:
    """Signs the ids of jobs with the key in ``queue/key``, which is made when it is missing."""

    def __init__(self, data_dir: Path) -> None:
        """Raises :class:`ConfigError`."""
        file = data_dir / "queue" / "key"
        make_private_dir(file.parent)
        write_private(file, secrets.token_bytes(_KEY_BYTES), replace=False)
        try:
            self._key = file.read_bytes()
        except OSError as exc:
            raise ConfigError(f"{file} cannot be read: {exc.strerror}") from exc
        if len(self._key) != _KEY_BYTES:
            raise ConfigError(f"{file} is not a key of {_KEY_BYTES} bytes; remove it, and a new one is made")

    def sign(self, job_id: str) -> str:
        """The signature of a job's id: 32 characters."""
        digest = hmac.digest(self._key, b"message:" + job_id.encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:24]).decode()

    def verify(self, job_id: str, signature: str) -> bool:
        """Whether ``signature`` was made by this key for this job."""
        return hmac.compare_digest(self.sign(job_id).encode(), signature.encode("utf-8", "replace"))
