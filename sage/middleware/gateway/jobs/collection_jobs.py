"""Jobs on a collection: ingest, reembed, snapshot. All that can be known is checked before one is accepted."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, BinaryIO, Literal, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from sage.addresses import AddressRefused, AllowedHosts
from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.requests import ModelName, parse
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.options import JobOptions
from sage.middleware.gateway.jobs.requests import CheckedJob
from sage.middleware.gateway.jobs.sources import ServerPaths
from sage.middleware.ingest.document import OVERLAP, OWN_FIELDS, SIZE
from sage.middleware.settings.queue import IngestSources

CollectionName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
SourceName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
MetadataValue = str | int | float | bool | list[str | int | float | bool]


class UploadedFile(Protocol):
    """What is needed of a stored file."""

    @property
    def filename(self) -> str: ...


class StoredFiles(Protocol):
    """The files of tenants. It blocks, and raises :class:`sage.errors.NotFound`."""

    def get(self, tenant: str, file_id: str) -> UploadedFile: ...


class NamedFile(BaseModel):
    """An uploaded file, and what it is called in the collection instead of its own name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file_id: str = Field(min_length=1, max_length=100)
    name: SourceName


FileOrName = Annotated[
    Annotated[str, Tag("id")] | Annotated[NamedFile, Tag("file")],
    Discriminator(lambda value: "file" if isinstance(value, dict | NamedFile) else "id"),
]
"""Told apart before they are checked, so that an error is about what was meant."""


class IngestJobRequest(JobOptions):
    """Documents to put into a collection: uploaded files, files of the gateway's machine below `queue.ingest.roots`,
    and pages of the hosts in `queue.ingest.url_hosts`. They are read, cut and named as `sage ingest` does it: a source
    that was ingested before is replaced, and skipped if it has not changed."""

    collection: CollectionName = Field(description="It is made if it is not there.", examples=["notes"])
    file_ids: list[FileOrName] | None = Field(None, description="Uploaded files (`POST /v1/files`).")
    paths: list[str] | None = Field(None, description="Absolute paths of files and directories.")
    urls: list[str] | None = Field(None, examples=[["https://docs.example.com/guide.html"]])
    include: list[Pattern] | None = Field(None, max_length=32, description="Of directories take these files only.")
    exclude: list[Pattern] | None = Field(None, max_length=32, description="Of directories leave these files out.")
    format: Literal["text", "markdown", "html", "pdf", "jsonl"] | None = Field(
        None, description="Of all sources; null means that it is told by name, content type and content."
    )
    encoding: str | None = Field(None, max_length=40, description="Of text files; null means that it is detected.")
    chunk_size: int = Field(SIZE, ge=50, le=100_000, description="Characters; a Chinese one counts as three.")
    overlap: int | None = Field(None, ge=0, description="Characters that two neighbouring chunks share at most.")
    document_metadata: dict[str, MetadataValue] | None = Field(
        None, max_length=50, description="Added to the metadata of every document."
    )
    again: bool = Field(False, description="Send sources that have not changed, too.")
    prune: bool = Field(
        False,
        description="At the end delete the documents of files that are no longer in the directories of `paths`; not "
        "together with `include` or `exclude`.",
    )


class ReembedJobRequest(JobOptions):
    """Make all vectors of a collection again; searches use the old ones until it is done."""

    collection: CollectionName = Field(examples=["notes"])
    embedder: ModelName = Field(examples=["local"])


class SnapshotJobRequest(JobOptions):
    """Store one consistent state of a collection as a file (`output_file_id`)."""

    collection: CollectionName = Field(examples=["notes"])


async def check_collection_job(
    gateway: Gateway,
    principal: Principal,
    kind: str,
    fields: dict[str, Any],
    sink: BinaryIO,
    sources: IngestSources,
    files: StoredFiles,
) -> CheckedJob:
    """Checks a job of ``kind`` (``ingest``, ``reembed``, ``snapshot``). The items of an ingest go to ``sink``, one JSON
    object a line; nothing in it counts when this raises. The others have no items (``total`` is ``None``).

    Raises :class:`InvalidRequest`, :class:`NotFound` and :class:`sage.errors.PermissionDenied`.
    """
    principal.require(Scope.SEARCH)  # what is there already is read, too
    if kind == "ingest":
        return await _check_ingest(gateway, principal, fields, sink, sources, files)
    check = _check_reembed if kind == "reembed" else _check_snapshot
    return await check(gateway, principal, fields)


async def _check_ingest(
    gateway: Gateway,
    principal: Principal,
    fields: dict[str, Any],
    sink: BinaryIO,
    sources: IngestSources,
    files: StoredFiles,
) -> CheckedJob:
    wanted = parse(IngestJobRequest, fields)
    if not (wanted.file_ids or wanted.paths or wanted.urls):
        raise InvalidRequest("the job has no sources: give 'file_ids', 'paths' or 'urls'", param="file_ids")
    if wanted.prune and (wanted.include or wanted.exclude):
        raise InvalidRequest(
            "'prune' does not go with 'include' or 'exclude': it would delete what they leave out", param="prune"
        )
    params = _ingest_params(wanted, sources)
    try:
        await gateway.collections.describe(principal, wanted.collection)
    except NotFound:
        gateway.collections.check_new(principal, wanted.collection)
    found = _Found(wanted, sources, files, principal.tenant)
    total = await asyncio.to_thread(_write_items, found.items(), sink, sources.max_files)
    params["prune"] = found.paths.directories if wanted.prune else []
    return CheckedJob("ingest", params, total, _options(wanted))


def _ingest_params(wanted: IngestJobRequest, sources: IngestSources) -> dict[str, Any]:
    overlap = min(OVERLAP, wanted.chunk_size // 5) if wanted.overlap is None else wanted.overlap
    if overlap >= wanted.chunk_size:
        raise InvalidRequest(f"'overlap' {overlap} is not below 'chunk_size' {wanted.chunk_size}", param="overlap")
    if wanted.encoding is not None and not _is_encoding(wanted.encoding):
        raise InvalidRequest(f"'{wanted.encoding}' is not the name of an encoding such as gb18030", param="encoding")
    for name in wanted.document_metadata or ():
        if name in OWN_FIELDS:
            raise InvalidRequest(f"'{name}' is written by the ingest itself", param="document_metadata")
    return {
        "collection": wanted.collection,
        "chunk_size": wanted.chunk_size,
        "overlap": overlap,
        "encoding": wanted.encoding,
        "format": wanted.format,
        "metadata": wanted.document_metadata or {},
        "again": wanted.again,
        "url_hosts": list(sources.url_hosts),
        "max_file": sources.max_file,
    }


class _Found:
    """The sources of a request as items, each name once."""

    def __init__(self, wanted: IngestJobRequest, sources: IngestSources, files: StoredFiles, tenant: str) -> None:
        self._wanted = wanted
        self.paths = ServerPaths(sources, wanted.include or (), wanted.exclude or ())
        self._sources = sources
        self._files = files
        self._tenant = tenant
        self._names: dict[str, Any] = {}
        """What each name stands for: an id of a file, else nothing."""

    def items(self) -> Iterator[dict[str, Any]]:
        """On a thread. Raises :class:`InvalidRequest` and :class:`NotFound`."""
        for item in self._all():
            source, file_id = item["source"], item.get("file_id")
            if source not in self._names:
                self._names[source] = file_id
                yield item
            elif self._names[source] != file_id:
                raise InvalidRequest(
                    f"two sources are named '{source}', so the second would replace the first; give one of them as "
                    '{"file_id": …, "name": …}',
                    param="file_ids",
                )

    def _all(self) -> Iterator[dict[str, Any]]:
        for file in self._wanted.file_ids or ():
            yield self._uploaded(file)
        for path in self._wanted.paths or ():
            yield from self.paths.find(path)
        allowed = AllowedHosts(self._sources.url_hosts, "queue.ingest.url_hosts")
        for number, url in enumerate(self._wanted.urls or ()):
            try:
                clean = allowed.check(url).url
            except AddressRefused as exc:
                raise AddressRefused(f"urls[{number}]: {exc.message}", param="urls") from None
            yield {"source": clean, "path": clean, "url": clean, "named": True}

    def _uploaded(self, file: str | NamedFile) -> dict[str, Any]:
        file_id = file if isinstance(file, str) else file.file_id
        stored = self._files.get(self._tenant, file_id)
        name = stored.filename if isinstance(file, str) else file.name
        return {"source": name, "path": name.rpartition("/")[2] or name, "file_id": file_id, "named": True}


def _write_items(items: Iterable[dict[str, Any]], sink: BinaryIO, most: int) -> int:
    count = 0
    for item in items:
        count += 1
        if count > most:
            raise InvalidRequest(f"a job has at most {most} sources (queue.ingest.max_files)", code="too_many_files")
        sink.write(orjson.dumps(item) + b"\n")
    if not count:
        raise InvalidRequest("there are no files in the given directories", param="paths", code="no_files")
    return count


def _is_encoding(name: str) -> bool:
    try:
        return bool(getattr(codecs.lookup(name), "_is_text_encoding", False))
    except (LookupError, ValueError):
        return False


async def _check_reembed(gateway: Gateway, principal: Principal, fields: dict[str, Any]) -> CheckedJob:
    wanted = parse(ReembedJobRequest, fields)
    await gateway.collections.check_reembed(principal, wanted.collection, wanted.embedder)
    params = {"collection": wanted.collection, "embedder": wanted.embedder}
    return CheckedJob("reembed", params, None, _options(wanted))


async def _check_snapshot(gateway: Gateway, principal: Principal, fields: dict[str, Any]) -> CheckedJob:
    wanted = parse(SnapshotJobRequest, fields)
    await gateway.collections.describe(principal, wanted.collection)
    return CheckedJob("snapshot", {"collection": wanted.collection}, None, _options(wanted))


def _options(wanted: JobOptions) -> JobOptions:
    return JobOptions(**{name: getattr(wanted, name) for name in JobOptions.model_fields})
