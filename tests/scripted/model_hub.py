"""A hub of models on loopback: what Hugging Face's library and our client of ModelScope really ask for, in raw bytes.

with ModelHub() as hub:
    hub.put("org/repo", "model-q4_k_m.gguf", content)
    ...                                      # HF_ENDPOINT=hub.url, or MODELSCOPE_DOMAIN=hub.url
    assert hub.requests[0].path == "/api/models/org/repo?blobs=true"

A file's answer is a redirect to another host (``localhost``), as the hubs do, and that host gets no token.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from raw_server import RawServer

REVISION = "0123456789abcdef0123456789abcdef01234567"
_REASONS = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
}


@dataclass
class HubRequest:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass
class HubRepo:
    """A repository. ``refusal`` is what its requests get: a status, and Hugging Face's code for it."""

    files: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """What the hub says of a file, where that is not the truth."""
    sums: dict[str, str | None] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    """Files that are not in the hub's large storage: their answer has the bytes, and the list no checksum."""
    head: str = REVISION
    """The commit of ``files``."""
    earlier: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of earlier commits."""
    refusal: tuple[int, str] | None = None
    names_only: bool = False
    """Its list has no sizes and no checksums, as that of some mirrors."""
    token: str | None = None
    """The token that it wants; ``None`` means that everybody may read it."""


class ModelHub(RawServer):
    """Serves repositories; ``cuts`` says after how many bytes the next downloads break off."""

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, HubRepo] = {}
        self.requests: list[HubRequest] = []
        self.cuts: list[int] = []
        self.page: bytes | None = None
        """What every path answers with; ``None`` means what it should."""
        self.hangs_after: int | None = None
        """Bytes of a download after which nothing more comes; ``None`` means that all comes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, repo: str, path: str, content: bytes, **options: Any) -> HubRepo:
        """Adds a file. ``size`` and ``sha256`` are what the hub says of it."""
        there = self.repos.setdefault(repo, HubRepo())
        there.files[path] = content
        if "size" in options:
            there.sizes[path] = options["size"]
        if "sha256" in options:
            there.sums[path] = options["sha256"]
        if options.get("plain"):
            there.plain.add(path)
        return there

    def commit(self, repo: str, commit: str) -> None:
        """What is put from now on belongs to ``commit``; the files so far are still there under the one before."""
        there = self.repos[repo]
        there.earlier[there.head] = dict(there.files)
        there.head = commit

    def downloads(self) -> list[HubRequest]:
        """The requests for the bytes of files."""
        return [request for request in self.requests if request.path.startswith("/cdn/")]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            self.requests.append(head)
            await self._answer(head, writer)

    async def _answer(self, request: HubRequest, writer: asyncio.StreamWriter) -> None:
        path = unquote(urlsplit(request.path).path)
        query = parse_qs(urlsplit(request.path).query)
        if self.page is not None:
            _reply(writer, 200, self.page)
        elif path.startswith("/cdn/"):
            repo, _, file = path.removeprefix("/cdn/").partition("//")
            commit = query.get("commit", [self.repos[repo].head])[0]
            await self._send_file(request, writer, self._files_of(repo, commit)[file])
        elif path.startswith("/api/v1/models/"):
            await self._modelscope(request, writer, path, query)
        elif path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            if not await self._refused(request, writer, repo):
                self._list(writer, repo, revision)
        elif "/resolve/" in path:
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            if not await self._refused(request, writer, repo):
                self._resolve(request, writer, repo, file, revision)
        else:
            _reply(writer, 404, b"{}")
        await writer.drain()

    async def _refused(self, request: HubRequest, writer: asyncio.StreamWriter, name: str) -> bool:
        repo = self.repos.get(name)
        refusal = (401, "RepoNotFound") if repo is None else repo.refusal
        if repo is not None and repo.token is not None:
            allowed = request.headers.get("authorization") == f"Bearer {repo.token}"
            refusal = None if allowed else (refusal or (401, "GatedRepo"))
        if refusal is None:
            return False
        status, code = refusal
        headers = {"X-Error-Code": code, "X-Error-Message": "scripted"} if code else {}
        _reply(writer, status, b'{"error": "scripted"}', headers)
        return True

    def _commit_of(self, repo: str, revision: str) -> str | None:
        """``None`` means that there is no such revision."""
        there = self.repos[repo]
        commit = there.head if revision in ("", "main", there.head[: len(revision)]) else revision
        return commit if commit == there.head or commit in there.earlier else None

    def _files_of(self, repo: str, commit: str) -> dict[str, bytes]:
        there = self.repos[repo]
        return there.files if commit == there.head else there.earlier[commit]

    def _list(self, writer: asyncio.StreamWriter, repo: str, revision: str) -> None:
        commit = self._commit_of(repo, revision)
        if commit is None:
            _reply(writer, 404, b'{"error": "no such revision"}', {"X-Error-Code": "RevisionNotFound"})
        else:
            _reply(writer, 200, json.dumps(self._info(repo, commit)).encode())

    def _info(self, name: str, commit: str) -> dict[str, Any]:
        repo = self.repos[name]
        siblings = []
        for path, content in self._files_of(name, commit).items():
            sibling: dict[str, Any] = {
                "rfilename": path,
                "size": repo.sizes.get(path, len(content)),
                "blobId": "b" * 40,
            }
            digest = repo.sums.get(path, _sha256(content))
            if repo.names_only:
                sibling = {"rfilename": path}
            elif digest is not None and path not in repo.plain:
                sibling["lfs"] = {"sha256": digest, "size": sibling["size"], "pointerSize": 135}
            siblings.append(sibling)
        return {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}

    def _resolve(self, request: HubRequest, writer: asyncio.StreamWriter, repo: str, file: str, revision: str) -> None:
        commit = self._commit_of(repo, revision)
        content = None if commit is None else self._files_of(repo, commit).get(file)
        if content is None or commit is None:
            _reply(writer, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if file in self.repos[repo].plain:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            body = b"" if request.method == "HEAD" else content
            writer.write(_head_bytes(200, len(content), headers) + body)
            return
        linked = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{self.repos[repo].sums.get(file) or _sha256(content)}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.port}/cdn/{repo}//{file}?commit={commit}",
        }
        _reply(writer, 302, b"", linked)

    async def _modelscope(
        self, request: HubRequest, writer: asyncio.StreamWriter, path: str, query: dict[str, list[str]]
    ) -> None:
        name, _, action = path.removeprefix("/api/v1/models/").partition("/repo")
        if await self._refused(request, writer, name):
            return
        repo = self.repos[name]
        if action == "/files":
            files = [
                {"Path": file, "Name": file.rpartition("/")[2], "Type": "blob", "Size": len(content)}
                | {"Sha256": repo.sums.get(file, _sha256(content))}
                for file, content in repo.files.items()
            ]
            tree = {"Path": "docs", "Name": "docs", "Type": "tree", "Size": 0, "Sha256": ""}
            answer = {"Code": 200, "Success": True, "Message": "", "Data": {"Files": [tree, *files]}}
            _reply(writer, 200, json.dumps(answer).encode())
        else:
            file = query["FilePath"][0]
            _reply(writer, 302, b"", {"Location": f"http://localhost:{self.port}/cdn/{name}//{file}"})

    async def _send_file(self, request: HubRequest, writer: asyncio.StreamWriter, content: bytes) -> None:
        begin = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = content[begin:]
        headers = {"ETag": f'"{_sha256(content)}"', "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        head = _head_bytes(206 if begin else 200, len(body), headers)
        if self.cuts:
            writer.write(head + body[: self.cuts.pop(0)])
            await writer.drain()
            raise ConnectionError
        if self.hangs_after is not None:
            writer.write(head + body[: self.hangs_after])
            await writer.drain()
            await asyncio.Event().wait()  # the hub's end ends it
        writer.write(head + body)


async def _head(reader: asyncio.StreamReader) -> HubRequest | None:
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return HubRequest(method, path, headers)


def _reply(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    writer.write(_head_bytes(status, len(body), {"Content-Type": "application/json", **(headers or {})}) + body)


def _head_bytes(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
