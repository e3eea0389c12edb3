"""The hubs that models are pulled from: the files of a repository, and where each is fetched.

Hugging Face is asked through its own library, which reads ``HF_ENDPOINT`` (a mirror) and ``HF_TOKEN``. ModelScope does
not speak Hugging Face's API, so it is asked in its own (``/api/v1/models/…/repo``); ``MODELSCOPE_DOMAIN`` and
``MODELSCOPE_API_TOKEN`` are the variables of its own client.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlencode

from sage.errors import MissingExtra, NotFound, PermissionDenied, UpstreamFailed
from sage.middleware.hub.sources import HubSource, RepoFile

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TIMEOUT = 30.0
"""Seconds that a hub may take to answer with a list."""
_CHUNK = 2**15
"""Bytes that are written at once. The library's 10 MiB are lost when a connection breaks before they are full."""
_MODELSCOPE = "www.modelscope.cn"


@dataclass(frozen=True, slots=True)
class FileLink:
    """Where a file is fetched, and with which headers."""

    url: str
    headers: Mapping[str, str]


class Hub(ABC):
    """One hub. Its errors are ours and hold no secret."""

    endpoint: str
    endpoint_variable: str
    token_variable: str
    commit: str | None = None
    """Of the files that were listed last; ``None`` means that the hub does not tell it."""

    def files(self, source: HubSource) -> list[RepoFile]:
        """The files of the repository, as the hub lists them."""
        try:
            with self.translating(source):
                return self._list(source)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UpstreamFailed(
                f"the hub {self.endpoint} answered with something that is no list of files; is it the address of a hub "
                f"({self.endpoint_variable})?",
                code="hub_failed",
            ) from exc

    @abstractmethod
    def _list(self, source: HubSource) -> list[RepoFile]: ...

    def complete(self, source: HubSource, file: RepoFile) -> RepoFile:
        """``file`` with the size and the checksum that the list of files did not have, where the hub tells them."""
        return file

    @abstractmethod
    def link(self, source: HubSource, file: RepoFile) -> FileLink: ...

    @abstractmethod
    def page(self, repo: str) -> str:
        """The repository's page for people."""

    @contextmanager
    def translating(self, source: HubSource) -> Iterator[None]:
        """Turns the library's errors into ours."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled as exc:
            raise UpstreamFailed("HF_HUB_OFFLINE is set, so nothing is pulled", code="hub_unreachable") from exc
        except HfHubHTTPError as exc:
            self._refused(source, exc.response.status_code, exc)
        except _http_errors() as exc:
            raise UpstreamFailed(
                f"the hub {self.endpoint} cannot be reached ({type(exc).__name__}); a mirror or a proxy is set where "
                f"the gateway runs: {self.endpoint_variable}, HTTPS_PROXY",
                code="hub_unreachable",
            ) from exc

    def _refused(self, source: HubSource, status: int, exc: Exception) -> NoReturn:
        from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

        variable = self.token_variable
        if isinstance(exc, GatedRepoError) or status == 403:
            advice = (
                f"the account of {variable} has no access to it"
                if os.environ.get(variable)
                else f"set {variable} where the gateway runs"
            )
            raise PermissionDenied(
                f"{source.hub}:{source.repo} is gated: accept its terms at {self.page(source.repo)}; {advice}",
                param="name",
                code="hub_gated",
            ) from exc
        if isinstance(exc, RevisionNotFoundError):
            raise NotFound(
                f"{source.hub}:{source.repo} has no revision '{source.revision or self.commit}' at {self.endpoint}: "
                "name a branch, a tag or a commit of it",
                param="name",
                code="hub_not_found",
            ) from exc
        if status in (401, 404):
            raise NotFound(
                f"{source.hub}:{source.repo} does not exist at {self.endpoint}, or it is private: check the name; for "
                f"a private one set {variable} where the gateway runs",
                param="name",
                code="hub_not_found",
            ) from exc
        raise UpstreamFailed(
            f"the hub {self.endpoint} answered with {status}; try again later", code="hub_failed"
        ) from exc


class HuggingFace(Hub):
    """Hugging Face, or a mirror of it."""

    endpoint_variable = "HF_ENDPOINT"
    token_variable = "HF_TOKEN"  # noqa: S105

    def __init__(self) -> None:
        from huggingface_hub import constants

        self.endpoint = constants.ENDPOINT

    def _list(self, source: HubSource) -> list[RepoFile]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True, timeout=_TIMEOUT)
        self.commit = info.sha if info.sha and _COMMIT.fullmatch(info.sha) else None
        return [
            RepoFile(file.rfilename, file.size, _sha256(file.lfs.sha256 if file.lfs else None))
            for file in info.siblings or ()
        ]

    def complete(self, source: HubSource, file: RepoFile) -> RepoFile:
        """Some mirrors list no more than names: the head of the file's answer tells the rest."""
        if file.size is not None and file.sha256 is not None:
            return file
        from huggingface_hub import get_hf_file_metadata

        with self.translating(source):
            told = get_hf_file_metadata(self.link(source, file).url)
        return RepoFile(file.path, file.size or told.size, file.sha256 or _sha256(told.etag))

    def link(self, source: HubSource, file: RepoFile) -> FileLink:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        return FileLink(
            hf_hub_url(source.repo, file.path, revision=self.commit or source.revision),
            build_hf_headers(),
        )

    def page(self, repo: str) -> str:
        return f"{self.endpoint}/{repo}"


class ModelScope(Hub):
    """ModelScope (魔搭社区)."""

    endpoint_variable = "MODELSCOPE_DOMAIN"
    token_variable = "MODELSCOPE_API_TOKEN"  # noqa: S105

    def __init__(self) -> None:
        domain = os.environ.get("MODELSCOPE_DOMAIN") or _MODELSCOPE
        self.endpoint = (domain if "://" in domain else f"https://{domain}").rstrip("/")

    def _list(self, source: HubSource) -> list[RepoFile]:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        query = urlencode({"Revision": source.revision or "master", "Recursive": "True"})
        url = f"{self.endpoint}/api/v1/models/{source.repo}/repo/files?{query}"
        answer = get_session().get(url, headers=self._headers(), timeout=_TIMEOUT)
        hf_raise_for_status(answer)
        listed = answer.json()["Data"]["Files"]
        return [_modelscope_file(file) for file in listed if file.get("Type") != "tree"]

    def link(self, source: HubSource, file: RepoFile) -> FileLink:
        query = urlencode({"Revision": source.revision or "master", "FilePath": file.path})
        return FileLink(f"{self.endpoint}/api/v1/models/{source.repo}/repo?{query}", self._headers())

    def page(self, repo: str) -> str:
        return f"{self.endpoint}/models/{repo}"

    def _headers(self) -> dict[str, str]:
        token = os.environ.get(self.token_variable)
        return {"Authorization": f"Bearer {token}"} if token else {}


def open_hub(name: str) -> Hub:
    """The hub ``hf`` or ``ms``; raises :class:`MissingExtra` without the library."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("pulling models from a hub", "local") from exc
    return HuggingFace() if name == "hf" else ModelScope()


def fetch(hub: Hub, source: HubSource, file: RepoFile, target: Any, have: int) -> None:
    """Writes the rest of the file to ``target``, which holds its first ``have`` bytes already.

    Raises our errors, ``OSError`` for what the disk refuses, and one without ``errno`` if the hub sent too little. What
    was written until then stays.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    disable_progress_bars("huggingface_hub.http_get")
    link = hub.link(source, file)
    with hub.translating(source):
        http_get(link.url, target, resume_size=have, headers=dict(link.headers), expected_size=file.size)


def _http_errors() -> tuple[type[Exception], ...]:
    """The base class of the errors of the HTTP client that the library uses, whichever it is."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def _modelscope_file(file: Mapping[str, Any]) -> RepoFile:
    size = file.get("Size")
    return RepoFile(str(file["Path"]), size if isinstance(size, int) else None, _sha256(file.get("Sha256")))


def _sha256(value: object) -> str | None:
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None
