"""Jobs that put documents into a collection: each source is fetched, parsed in a child with limits, and written.

It is the ingest of ``sage ingest``, with the same chunks under the same ids. The digest of a source's bytes is written
last, so a source that another worker has finished is skipped when the job is delivered again.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

from sage.addresses import AllowedHosts
from sage.errors import CallFailed, NotFound, SageError
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.fetching import FetchLimits, fetch
from sage.middleware.ingest.files import FileEntry, kind_of
from sage.middleware.ingest.ingestion import Ingestion
from sage.middleware.ingest.parsing import Parser, ParsingLimits
from sage.middleware.ingest.records import Recipe
from sage.middleware.ingest.summary import NoDisplay, Summary
from sage.middleware.ingest.target import IngestTarget
from sage.middleware.worker.lease import JobFailed
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run
from sage.middleware.worker.scratch import scratch_directory
from sage.middleware.worker.thread_client import ThreadClient

T = TypeVar("T")
_log = logging.getLogger("sage.worker")
_PARSERS = 2
"""Sources that are parsed at a time; more are fetched meanwhile."""
_HEAD = 8192  # bytes that decide the kind of a file
_MOST_WARNINGS = 10
_STOP_SECONDS = 0.2


class UnknownKind(Unreadable):
    """A file is of no kind that can be read."""


async def run(run: Run) -> Outcome:
    """Ingests every source; the result counts what became of them, as the summary of ``sage ingest`` does."""
    with scratch_directory() as scratch, IngestJob(run, scratch) as job:
        await run.each(job.ingest)
        sums = await _Sums.of(run)
        if run.params.get("prune") and not run.is_cut_short:
            await job.prune(sums)
    return Outcome(sums.result())


class IngestJob:
    """The work on the sources of one run: a context manager, which ends its parsers."""

    def __init__(self, run: Run, scratch: Path) -> None:
        """``scratch`` is a directory for the bytes of sources."""
        params = run.params
        self._run = run
        self._scratch = scratch
        self._kind = None if params["format"] is None else FileKind(params["format"])
        self._recipe = Recipe(params["chunk_size"], params["overlap"], params["encoding"], params["metadata"])
        self._allowed = AllowedHosts(params["url_hosts"], "queue.ingest.url_hosts")
        self._limits = FetchLimits(size=params["max_file"])
        self._parsers: asyncio.Queue[Parser] = asyncio.Queue()
        for _ in range(_PARSERS):
            self._parsers.put_nowait(Parser(ParsingLimits()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._parsers.empty():
            self._parsers.get_nowait().close()

    async def ingest(self, item: JobItem) -> ItemResult:
        """Fetches, parses and writes one source. Raises :class:`ConnectionError` when the gateway is lost."""
        try:
            return await self._ingest(item)
        except UnknownKind as exc:
            return _failed(item, str(exc), "unsupported_file" if "store" in item.body else "unreadable")
        except Unreadable as exc:
            return _failed(item, str(exc), "unreadable")
        except CallFailed as exc:
            if exc.answer_status is None:
                raise ConnectionError(exc.message) from exc
            if exc.answer_status in (401, 403):
                raise JobFailed(exc.message, code=exc.code) from exc
            return _failed(item, exc.message, exc.code)
        except SageError as exc:
            return _failed(item, exc.message, exc.code)
        except JobFailed:
            raise
        except TimeoutError:
            return _failed(item, "it took too long", "timeout")
        except OSError as exc:
            if isinstance(exc, ConnectionError):
                raise
            return _failed(item, f"cannot be kept while it is parsed: {exc.strerror}", "worker_disk")
        except Exception as exc:  # a fault of ours costs this source only, and its line has what others have
            _log.exception("the source %s failed", item.index)
            return _failed(item, f"{type(exc).__name__}: {exc}"[:500], "internal_error")

    async def prune(self, sums: _Sums) -> None:
        """Deletes the documents of files that the job's directories no longer have, and counts them."""
        prefixes = tuple(self._run.params["prune"])

        def prune(client: ThreadClient) -> None:
            target = IngestTarget(client, self._run.params["collection"], client.sleep)
            target.open()
            for source in list(target.sources()):
                if source.startswith(prefixes) and not sums.has(source):
                    sums.counts["deleted"] += target.remove_source(source)
                    sums.sources["pruned"] += 1

        try:
            await self._on_thread(prune, None)
        except CallFailed as exc:
            if exc.answer_status is None:
                raise ConnectionError(exc.message) from exc
            raise JobFailed(exc.message, code=exc.code) from exc

    async def _ingest(self, item: JobItem) -> ItemResult:
        if "obstacle" in item.body:
            raise Unreadable(item.body["obstacle"])
        store = item.body.get("store")
        with tempfile.NamedTemporaryFile(dir=self._scratch) as file:
            kind, recipe = await self._fetch(item, cast(BinaryIO, file))
            file.flush()
            if store is not None:
                recipe = Recipe(store["chunk_size"], store["overlap"], None, store["metadata"])
            entry = _entry(item, Path(file.name), kind)
            if entry is None:
                return ItemResult(item.index, True, _line(item, {"outcome": "skipped", "reason": "binary"}))
            parser = await self._parsers.get()
            try:
                write = partial(self._write, entry, recipe, parser, store is None)
                summary = await self._on_thread(write, parser)
            finally:
                self._parsers.put_nowait(parser)
        return _result(item, summary)

    async def _fetch(self, item: JobItem, file: BinaryIO) -> tuple[FileKind | None, Recipe]:
        """Writes the source's bytes to the file; what its server says it is, and how it is read."""
        if "url" in item.body:
            fetched = await fetch(item.body["url"], self._allowed, file, self._limits)
            encoding = self._recipe.encoding or fetched.encoding
            recipe = Recipe(self._recipe.size, self._recipe.overlap, encoding, self._recipe.metadata)
            return self._kind or fetched.kind, recipe
        pieces = self._uploaded(item.body["file_id"]) if "file_id" in item.body else self._run.source(item.index)
        size = 0
        try:
            async for piece in pieces:
                size += len(piece)
                if size > self._limits.size:
                    raise Unreadable(f"has more than {self._limits.size} bytes (queue.ingest.max_file)")
                await asyncio.to_thread(file.write, piece)
        except JobFailed as exc:  # of this source only
            raise NotFound(exc.message, code=exc.code) from exc
        return self._kind, self._recipe

    async def _uploaded(self, file_id: str) -> AsyncIterator[bytes]:
        async with self._run.client.stream("GET", f"/v1/files/{file_id}/content") as answer:
            if not answer.ok:
                error = (await answer.read()).error
                raise CallFailed(str(error.get("message")), answer_status=answer.status, code=error.get("code"))
            async for piece in answer.chunks():
                yield piece

    async def _on_thread(self, work: Callable[[ThreadClient], T], parser: Parser | None) -> T:
        """The result of ``work``. When the run is cancelled, the thread ends, with its calls and its parser."""
        client = ThreadClient(self._run.client)
        done = asyncio.ensure_future(asyncio.to_thread(work, client))
        try:
            return await asyncio.shield(done)
        finally:
            client.stop()
            while not done.done():
                if parser is not None:
                    parser.kill()
                await asyncio.wait([done], timeout=_STOP_SECONDS)
            done.exception()

    def _write(
        self, entry: FileEntry, recipe: Recipe, parser: Parser, may_create: bool, client: ThreadClient
    ) -> Summary:
        name = self._run.params["collection"]
        target, summary = IngestTarget(client, name, client.sleep, may_create=may_create), Summary(name)
        target.open()
        again = bool(self._run.params["again"])
        Ingestion(target, parser, recipe, summary, NoDisplay(), again, has_journal=False).run([entry])
        summary.warnings = target.warnings
        summary.close()
        return summary


def _entry(item: JobItem, path: Path, kind: FileKind | None) -> FileEntry | None:
    """``None`` means a binary file that a directory has among others. In a vector store, lines of JSON are text: they
    belong to their file, and are no documents of their own."""
    source = str(item.body["source"])
    name = str(item.body["path"]) if "store" in item.body else source
    with path.open("rb") as file:
        head = file.read(_HEAD)
    kind = kind or kind_of(name.partition("?")[0] if "url" in item.body else name, head)
    if kind is FileKind.JSONL and "store" in item.body:
        kind = FileKind.TEXT
    if kind is None and item.body.get("named"):
        raise UnknownKind("is neither text nor a document of a known kind")
    if kind is None:
        return None
    return FileEntry(path, source, str(item.body["path"]), kind, path.stat().st_size, source)


def _result(item: JobItem, summary: Summary) -> ItemResult:
    counts = {"chunks": summary.chunks, "sent": summary.sent, "deleted": summary.deleted}
    if summary.failures:
        failed = _failed(item, "; ".join(_reasons(item, summary)), "unreadable")
        failed.line |= counts
        return failed
    outcomes = {"added": summary.added, "changed": summary.changed, "unchanged": summary.unchanged}
    outcome = next((name for name, count in outcomes.items() if count), "empty")
    line = _line(item, {"outcome": outcome, **counts})
    if summary.warnings:
        line["warnings"] = summary.warnings
    return ItemResult(item.index, True, line)


def _reasons(item: JobItem, summary: Summary) -> Iterator[str]:
    """Why the source, or which lines of it, could not be taken."""
    for name, reason in summary.failures:
        line = name.removeprefix(str(item.body["source"])).removeprefix(":")
        yield f"line {line}: {reason}" if line else reason


def _failed(item: JobItem, message: str, code: str) -> ItemResult:
    return ItemResult(
        item.index, False, _line(item, {"outcome": "failed", "error": {"message": message, "code": code}})
    )


def _line(item: JobItem, fields: dict[str, Any]) -> dict[str, Any]:
    store = item.body.get("store")
    ticket = {} if store is None else {"ticket": store["ticket"]}
    return {"index": item.index, "source": item.body["source"], **ticket, **fields}


class _Sums:
    """What became of all sources, also of those that other workers did."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._names: set[str] = set()
        self._failed: list[str] = []

    @classmethod
    async def of(cls, run: Run) -> _Sums:
        sums = cls()
        async for one in run.results():
            sums._add(one["line"])
        return sums

    def has(self, source: str) -> bool:
        """Whether the job has the source, or could not look into a directory above it."""
        return source in self._names or any(source.startswith(f"{name}/") for name in self._failed)

    def result(self) -> dict[str, Any]:
        """The result of the job."""
        return {"sources": dict(self.sources), **self.counts, "warnings": self._warnings[:_MOST_WARNINGS]}

    def _add(self, line: dict[str, Any]) -> None:
        outcome = line.get("outcome", "failed")
        self.sources[outcome] += 1
        self.counts.update({name: line.get(name, 0) for name in ("chunks", "sent", "deleted")})
        self._warnings += [text for text in line.get("warnings", ()) if text not in self._warnings]
        self._names.add(line["source"])
        if outcome == "failed":
            self._failed.append(line["source"])
