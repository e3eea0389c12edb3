"""Signatures of messages: with the key of the data directory, so that only its gateway can wake a worker with a job."""

from __future__ import annotations

import base64
import hmac
import secrets
from contextlib import closing
from pathlib import Path

from sage.errors import ConfigError
from sage.middleware.database.installation import open_shared_files
from sage.middleware.settings.database import DatabaseUrl

_FILE = "key"
_KEY_BYTES = 32


class Signer:
    """Signs the ids of jobs with the key ``queue/key`` of the installation, which is made when it is missing."""

    def __init__(self, data_dir: Path, url: DatabaseUrl | None = None) -> None:
        """Raises :class:`ConfigError`."""
        with closing(open_shared_files(data_dir, "queue", url)) as files:
            files.add(_FILE, secrets.token_bytes(_KEY_BYTES))
            self._key = files.read(_FILE) or b""
            if len(self._key) != _KEY_BYTES:
                place = files.place(_FILE)
                raise ConfigError(f"{place} is not a key of {_KEY_BYTES} bytes; remove it, and a new one is made")

    def sign(self, job_id: str) -> str:
        """The signature of a job's id: 32 characters."""
        digest = hmac.digest(self._key, b"message:" + job_id.encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:24]).decode()

    def verify(self, job_id: str, signature: str) -> bool:
        """Whether ``signature`` was made by this key for this job."""
        return hmac.compare_digest(self.sign(job_id).encode(), signature.encode("utf-8", "replace"))
