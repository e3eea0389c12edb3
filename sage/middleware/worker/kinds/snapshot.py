"""Jobs that store one consistent state of a collection as a file of the tenant's (``GET /v1/files/{id}/content``)."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

from sage.middleware.worker.job_client import AnswerStream
from sage.middleware.worker.kinds.patience import failure, must_wait, patient_stream, wait
from sage.middleware.worker.run import Outcome, Run


async def run(run: Run) -> Outcome:
    """The result has the file's id as ``output_file_id``, and its size. What broke off is begun again."""
    path = f"/collections/{quote(run.params['collection'], safe='')}/snapshot"
    while True:
        async with patient_stream(run.client, "GET", path) as snapshot:
            upload = _Upload(run, snapshot)
            answer = await run.client.request("POST", "/v1/files", body=upload.body(), headers=upload.headers)
        if answer.ok:
            return Outcome({"output_file_id": answer.json()["id"], "bytes": upload.size})
        if not must_wait(answer.status):
            raise failure(answer)
        await wait(answer.retry_after)


class _Upload:
    """A form with the snapshot, which is sent as it comes."""

    def __init__(self, run: Run, snapshot: AnswerStream) -> None:
        self.size = 0
        self._run = run
        self._snapshot = snapshot
        self._boundary = secrets.token_hex(16)
        self._name = f"{run.params['collection']}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.snapshot"

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": f"multipart/form-data; boundary={self._boundary}"}

    async def body(self) -> AsyncIterator[bytes]:
        """Counts the bytes of the snapshot as progress."""
        line = f"--{self._boundary}\r\nContent-Disposition: form-data; name="
        yield f'{line}"purpose"\r\n\r\nsnapshot\r\n{line}"file"; filename="{self._name}"\r\n'.encode()
        yield b"Content-Type: application/octet-stream\r\n\r\n"
        async for piece in self._snapshot.chunks():
            self.size += len(piece)
            self._run.progress(self.size)
            yield piece
        yield f"\r\n--{self._boundary}--\r\n".encode()
