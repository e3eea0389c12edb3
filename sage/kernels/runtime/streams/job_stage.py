"""Durable jobs as a stage of a pipeline: its workers hand groups of records to the queue of a gateway."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage.errors import CallFailed, InvalidRequest, SageError
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.workers import Failure, Outcome

_ENTRY_POINT = "sage.job_queue"
_MOST_BYTES = 4 * 2**20
"""Of the records of one job, as JSON."""
_FULL_FOR = 600.0
"""Seconds that records wait for room in a full queue before they count as failed."""
_LISTS = {"generate": "requests", "embed": "requests"}
"""The kinds of jobs of many records, and the field that takes them. Others take one record each."""
_TEXT_FIELDS = {"generate": "prompt", "embed": "input"}
"""The field of a record that is a text."""


class SubmittedJob(Protocol):
    """A job that is durable in the queue."""

    @property
    def id(self) -> str: ...

    def result(self) -> Any:
        """Waits, and returns the result; raises when the job has not succeeded."""

    def results(self) -> Iterator[Mapping[str, Any]]:
        """Waits, and gives the line of each record, with its ``index`` and, if it failed, its ``error``."""


class JobQueue(Protocol):
    """Takes jobs: a ``JobsClient``, or anything else with this method."""

    def submit(self, kind: str, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> SubmittedJob:
        """Returns once the job is durable. The same key and body again is the same job."""


@dataclass(frozen=True)
class EnqueuedRecord:
    """A record that was handed to the queue: it is number ``index`` of the job with the id ``job``."""

    record: Any
    job: str
    index: int


class RecordFailed(SageError):
    """The job has done its other records, but not this one."""

    default_code = "record_failed"


@dataclass(frozen=True)
class JobStep:
    """How records become jobs of ``kind``.

    ``request(record)`` returns what the job is asked for a record; ``None`` means the record itself. ``combine(record,
    result)`` returns the new record; ``None`` means the result alone. ``fields`` go into every job. ``waits``: the new
    records are the results. ``run`` names what must not be done twice; ``None`` means this run of the pipeline.
    ``isolates``: when a group is refused, each of its records is handed over alone, to find the one at fault.
    """

    kind: str
    request: Callable[[Any], Any] | None = None
    combine: Callable[[Any, Any], Any] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = False
    run: str | None = None
    isolates: bool = True

    @property
    def list_field(self) -> str | None:
        """``None`` means that a job takes one record."""
        return _LISTS.get(self.kind)

    def request_of(self, record: Any) -> tuple[dict[str, Any], int]:
        """What the job is asked for the record, and its size in bytes. Raises :class:`InvalidRequest` for a record
        that is no request."""
        request = record if self.request is None else self.request(record)
        if isinstance(request, str) and self.kind in _TEXT_FIELDS:
            request = {_TEXT_FIELDS[self.kind]: request}
        if not isinstance(request, Mapping):
            raise InvalidRequest(
                f"a record for a job of kind '{self.kind}' must be a mapping or a text, not {type(record).__name__}; "
                "enqueue(…, request=…) makes one of it"
            )
        try:
            return dict(request), len(json.dumps(request))
        except (TypeError, ValueError) as exc:
            raise InvalidRequest(f"a record for a job of kind '{self.kind}' is not JSON: {exc}") from None

    def body(self, requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.list_field is None:
            return {**self.fields, **requests[0]}
        return {**self.fields, self.list_field: list(requests)}


class JobWorker:
    """Hands the records of each batch over as one job, or as several when they are large."""

    def __init__(self, step: JobStep, queue: JobQueue | None) -> None:
        """``queue`` ``None`` means the one that the installed gateway offers."""
        self._step = step
        self._queue = queue
        self._run = step.run or uuid.uuid4().hex
        self._seen: Counter[str] = Counter()

    def start(self, callers: Callers) -> None:
        if self._queue is None:
            self._queue = _default_queue()

    def stop(self) -> None:
        pass

    def process(self, batch: list[Any]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(batch)
        groups = _groups(self._step, batch, outcomes)
        jobs = [(group, self._submit(group)) for group in groups]
        for group, job in jobs:
            for (place, _), outcome in zip(group, self._outcomes(batch, group, job), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _submit(self, group: Group) -> SubmittedJob | Failure:
        body = self._step.body([request for _, request in group])
        try:
            return self._submit_with_room(body)
        except Exception as exc:
            return Failure(exc)

    def _submit_with_room(self, body: Mapping[str, Any]) -> SubmittedJob:
        """Waits while the queue is full: so a pipeline is not faster than what does its jobs."""
        assert self._queue is not None, "it was started"
        key, end = self._key(body), time.monotonic() + _FULL_FOR
        while True:
            try:
                return self._queue.submit(self._step.kind, body, idempotency_key=key)
            except CallFailed as exc:
                if exc.answer_status not in (429, 503) or exc.retry_after is None or time.monotonic() >= end:
                    raise
                time.sleep(max(exc.retry_after, 0.1))

    def _key(self, body: Mapping[str, Any]) -> str:
        """The same for the same records of a run; for each time that they come in it another one."""
        text = json.dumps([self._step.kind, body], sort_keys=True)
        digest = hashlib.sha256(f"{self._run}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
        self._seen[digest] += 1
        return f"{digest[:40]}-{self._seen[digest]}"

    def _outcomes(self, batch: list[Any], group: Group, job: SubmittedJob | Failure) -> list[Outcome]:
        records = [batch[place] for place, _ in group]
        if isinstance(job, Failure):
            if self._step.isolates and len(group) > 1 and _is_refusal(job.error):
                return [self._outcomes(batch, [one], self._submit([one]))[0] for one in group]
            return [job] * len(group)
        if not self._step.waits:
            return [self._combined(one, EnqueuedRecord(one, job.id, index)) for index, one in enumerate(records)]
        try:
            results = self._results(job, len(group))
        except Exception as exc:
            results = [Failure(exc)] * len(group)
        return [self._combined(record, result) for record, result in zip(records, results, strict=True)]

    def _results(self, job: SubmittedJob, count: int) -> list[Outcome]:
        if self._step.list_field is None:
            return [job.result()]
        missing = Failure(RecordFailed(f"the job {job.id} has ended without a result for this record"))
        results: list[Outcome] = [missing] * count
        for line in job.results():
            if 0 <= (index := line["index"]) < count:
                results[index] = _result_of(line)
        return results

    def _combined(self, record: Any, result: Any) -> Outcome:
        if self._step.combine is None or isinstance(result, Failure):
            return result
        try:
            return self._step.combine(record, result)
        except Exception as exc:
            return Failure(exc)


Group = list[tuple[int, dict[str, Any]]]
"""Records of one job: the place of each in its batch, and its request."""


def _groups(step: JobStep, batch: list[Any], outcomes: list[Outcome]) -> list[Group]:
    """The records of ``batch`` by job. A record that is no request becomes a :class:`Failure` in ``outcomes``."""
    groups: list[Group] = []
    size = 0
    for place, record in enumerate(batch):
        try:
            request, bytes_ = step.request_of(record)
        except Exception as exc:
            outcomes[place] = Failure(exc)
            continue
        if not groups or step.list_field is None or size + bytes_ > _MOST_BYTES:
            groups.append([])
            size = 0
        groups[-1].append((place, request))
        size += bytes_
    return groups


def _result_of(line: Mapping[str, Any]) -> Outcome:
    """The result in the line of a record: its response or embedding; else the line itself."""
    if error := line.get("error"):
        return Failure(RecordFailed(str(error.get("message")), code=error.get("code")))
    return next((line[name] for name in ("response", "embedding") if name in line), dict(line))


def _is_refusal(error: BaseException) -> bool:
    """Whether something is wrong with what was handed over, and not with the way to the queue."""
    return isinstance(error, CallFailed) and error.answer_status in (400, 413)


def _default_queue() -> JobQueue:
    """That of the gateway which the environment names; the gateway offers it by an entry point, since pipelines do not
    import it."""
    entry_point = next(iter(importlib.metadata.entry_points(group=_ENTRY_POINT)), None)
    if entry_point is None:
        raise InvalidRequest("no gateway is installed that takes jobs: pass jobs=JobsClient(url, key)", param="jobs")
    queue: JobQueue = entry_point.load()()
    return queue
