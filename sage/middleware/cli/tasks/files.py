"""Uploads of files to ``/v1/files``, for jobs that read them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from sage.errors import InvalidRequest, SageError
from sage.middleware.cli.progress import counting_bytes
from sage.middleware.client.connection import Client

_PART = 2**18
_PURPOSE = "user_data"


def upload_file(gateway: Client, file: Path) -> str:
    """Uploads ``file``; returns its id."""
    if file.is_dir():
        raise InvalidRequest(f"{file} is a directory; name its files, or use 'sage ingest'")
    boundary = secrets.token_hex(16)
    try:
        size = file.stat().st_size
        answer = gateway.send(
            "/v1/files",
            _form(file, size, boundary),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    return str(answer["id"])


def _form(file: Path, size: int, boundary: str) -> Iterator[bytes]:
    name = re.sub(r'[\x00-\x1f\x7f"\\]', "_", file.name)
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{_PURPOSE}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode("utf-8", "surrogateescape")
    with file.open("rb") as source, counting_bytes(file.name, size) as count:
        while part := source.read(_PART):
            yield part
            count(len(part))
    yield f"\r\n--{boundary}--\r\n".encode()
