"""Durable jobs of a running gateway, from Python: :class:`JobsClient` submits them, finds them and follows them."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from sage.errors import CallFailed, InvalidRequest
from sage.middleware.client.connection import Client, NoGateway, connect
from sage.middleware.client.handle import JobHandle

T = TypeVar("T")
View = dict[str, Any]
_PATIENCE = 30.0
"""Seconds for which a gateway that does not answer, or is busy, is asked again."""
_SILENCE = 45.0
"""Seconds without a sign of life, of which the gateway sends one every 15, after which a stream counts as broken."""
_PAGE = 100


class JobsClient:
    """The jobs of the gateway at ``url``, with the key ``api_key``.

    Without ``url`` it is the gateway that the command line speaks to: that of ``SAGE_URL`` and ``SAGE_API_KEY``, else
    that of this machine. Every call is made again for a while when the gateway does not answer, as when it restarts;
    a submitted job is the same one then. Threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        connect: Callable[[], Client] = connect,
        patience: float = _PATIENCE,
    ) -> None:
        """``connect`` makes the connection where there is no ``url``, again whenever it does not work any more;
        ``patience`` is how many seconds a call is made again, in all."""
        self._connect: Callable[[], Client] = connect if url is None else lambda: Client(url, api_key)
        self._patience = patience
        self._connected: Client | None = None
        self._has_answered = False

    def __repr__(self) -> str:
        return f"<JobsClient of {self._connected.url}>" if self._connected is not None else "<JobsClient>"

    def submit(self, kind: str, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> JobHandle:
        """Submits a job: ``body`` is that of ``POST /tasks/{kind}``. It is durable once this returns.

        A second submission with the same ``idempotency_key`` and body is the first one's job.
        """
        return self.job(self.submit_body(kind, json.dumps(body).encode(), idempotency_key=idempotency_key))

    def submit_body(
        self,
        kind: str,
        body: bytes | Callable[[], Iterator[bytes]],
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        idempotency_key: str | None = None,
    ) -> View:
        """As :meth:`submit`, of a body that is encoded already, or that a function gives in parts, once for each
        attempt. Returns the job's view."""
        if not kind or not kind.replace("-", "").replace("_", "").isalnum():
            raise InvalidRequest(f"'{kind}' is not a kind of job, such as generate or ingest", param="kind")
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex, "Content-Type": content_type}

        def send(client: Client) -> View:
            parts = body if isinstance(body, bytes) else body()
            return client.send(f"/tasks/{kind}", parts, query=query, headers=headers)

        return self._call(send)

    def job(self, job: str | Mapping[str, Any]) -> JobHandle:
        """The handle of a job by its id, or by its view."""
        return JobHandle(self, {"id": job} if isinstance(job, str) else dict(job))

    def list(
        self, *, kind: str | None = None, state: str | None = None, user: str | None = None
    ) -> Iterator[JobHandle]:
        """The handles of your jobs, the newest first."""
        return map(self.job, self.views(kind=kind, state=state, user=user))

    def views(self, *, kind: str | None = None, state: str | None = None, user: str | None = None) -> Iterator[View]:
        """The views of your jobs, the newest first."""
        filters = {"kind": kind, "state": state, "user": user}
        query: dict[str, str | int] = {name: value for name, value in filters.items() if value is not None}
        query["limit"] = _PAGE
        while True:
            answer = self._call(lambda client: client.get("/tasks", **query))
            yield from answer["tasks"]
            if not answer.get("next"):
                return
            query["after"] = answer["next"]

    def get(self, job: str) -> View:
        """The view of a job."""
        return self._call(lambda client: client.get(_path(job)))

    def cancel(self, job: str) -> View:
        """Asks for the end of a job: what runs is stopped, what is done is kept."""
        return self._call(lambda client: client.post(f"{_path(job)}/cancel"))

    def retry(self, job: str) -> View:
        """Queues a failed, dead or cancelled job again; of a job of many lines, those that failed or were not done."""
        return self._call(lambda client: client.post(f"{_path(job)}/retry"))

    def forget(self, job: str) -> None:
        """Cancels an unfinished job; removes a finished one with its files."""
        self._call(lambda client: client.delete(_path(job)))

    def download(self, job: str) -> Iterator[bytes]:
        """The results as they are sent: a line of JSON each, in the order of the input."""
        return (self._connected or self._renew()).download(f"{_path(job)}/results")

    def watch(self, job: str, on_break: Callable[[str], object] | None = None) -> Iterator[View]:
        """The view of a job, now and whenever it changes, until it has ended.

        A stream that breaks is opened again, for up to 30 seconds without an answer; ``on_break`` is told why it broke.
        """
        retries = _Retries(_PATIENCE)
        while True:
            try:
                for view in self._follow(job):
                    retries = _Retries(_PATIENCE)
                    yield view
                    if view["finished_at"] is not None:
                        return
                reason = "the stream of events ended before the job did"
            except CallFailed as exc:
                if not self._may_pass(exc) or retries.are_over(exc.retry_after):
                    raise
                reason = exc.message
            if on_break is not None:
                on_break(reason)
            retries.pause()

    def _follow(self, job: str) -> Iterator[View]:
        client = self._connected or self._renew()
        for _, event in client.follow(f"{_path(job)}/events", _SILENCE):
            self._has_answered = True
            if isinstance(event, dict) and "state" in event:
                yield event

    def _call(self, call: Callable[[Client], T]) -> T:
        """The result of ``call``, which is made again while the gateway does not answer or says that it is busy."""
        retries = _Retries(self._patience)
        while True:
            try:
                result = call(self._connected or self._renew())
            except CallFailed as exc:
                if not self._may_pass(exc) or retries.are_over(exc.retry_after):
                    raise
                retries.pause(exc.retry_after)
            else:
                self._has_answered = True
                return result

    def _renew(self) -> Client:
        self._connected = self._connect()
        return self._connected

    def _may_pass(self, error: CallFailed) -> bool:
        """Whether another attempt may work. A connection that is refused is made anew then: its address or its
        credential may be another one now. A gateway that has never answered is probably not there."""
        if isinstance(error, NoGateway) or error.answer_status == 401:
            self._connected = None
            return self._has_answered
        return error.answer_status is None or (error.answer_status in (429, 503) and error.retry_after is not None)

    def __getstate__(self) -> dict[str, Any]:
        raise InvalidRequest("a JobsClient holds a credential and is not pickled: pass ids, JobsClient().job(id)")


class _Retries:
    """The pauses before further attempts, each twice as long, for ``patience`` seconds in all."""

    def __init__(self, patience: float) -> None:
        self._end = time.monotonic() + patience
        self._pause = 0.1

    def are_over(self, wanted: float | None) -> bool:
        """Whether a pause of ``wanted`` seconds would be too long; ``None`` means that any is right."""
        return time.monotonic() + (wanted or self._pause) >= self._end

    def pause(self, wanted: float | None = None) -> None:
        time.sleep(max(wanted or 0.0, self._pause * random.uniform(0.5, 1.0)))  # noqa: S311
        self._pause = min(2 * self._pause, 2.0)


def _path(job: str) -> str:
    if not job or "/" in job or job in (".", ".."):
        raise InvalidRequest(f"'{job}' is not the id of a job, such as job_…", param="id")
    return f"/tasks/{job}"
