"""Models in ONNX's format that were pulled from a hub: each one commit of a repository, with the sha256 of every file.

A snapshot is a directory of files and, beside it, a list of them with their checksums. Its name holds the commit and
a digest of that list, so who keeps the name (a collection, a configuration) is never answered by another content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sage.errors import ConfigError, NotFound, SageError, Unsupported, UpstreamFailed
from sage.middleware.hub.clients import Hub, open_hub
from sage.middleware.hub.downloads import Download, Report, alone, disk_error, sha256_of
from sage.middleware.hub.onnx_choice import OnnxChoice, check_sizes, choose_onnx
from sage.middleware.hub.sources import HubSource, RepoFile
from sage.private_files import sync_directory

_COMMIT_BEGINS = re.compile(r"[0-9a-f]{7,64}")
_LIST = ".snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit. ``graph`` is the path of the ONNX file among ``sums``, which has the sha256 of each."""

    repo: str
    commit: str
    file: str | None
    """The graph, if it was asked for by its path."""
    graph: str
    folder: Path
    digest: str
    """Of all its content."""
    sums: Mapping[str, str] = field(compare=False)
    revisions: frozenset[str] = field(compare=False)
    """By which it was pulled."""
    pulled_at: float = field(compare=False)

    @property
    def name(self) -> str:
        """By which exactly this content is found again: ``hf:ORG/REPO@COMMIT#sha256-…``."""
        return str(HubSource("hf", self.repo, self.file, self.commit, self.digest))

    def is_meant_by(self, source: HubSource) -> bool:
        revision = source.revision
        return (
            source.file == self.file
            and source.digest in (None, self.digest)
            and (
                revision is None
                or revision in self.revisions
                or bool(_COMMIT_BEGINS.fullmatch(revision) and self.commit.startswith(revision))
            )
        )

    def json(self, path: str) -> Any:
        """The content of one of its files; ``None`` means that it has no such file. Raises :class:`ConfigError`."""
        if path not in self.sums:
            return None
        try:
            return json.loads(self.read(path))
        except (ValueError, RecursionError) as exc:
            raise self.fault(f"'{path}' is not JSON") from exc

    def read(self, path: str) -> bytes:
        """The content of a file. Raises :class:`ConfigError` where it is not what was pulled."""
        try:
            content = (self.folder / path).read_bytes()
        except OSError as exc:
            raise self._unreadable(path, exc) from exc
        self._check(path, hashlib.sha256(content).hexdigest())
        return content

    def checked_graph(self) -> Path:
        """Where the graph is, once it and its weights were found to be what was pulled. Raises :class:`ConfigError`."""
        for path in self.sums:
            if not path.endswith(".json"):
                try:
                    self._check(path, sha256_of(self.folder / path))
                except OSError as exc:
                    raise self._unreadable(path, exc) from exc
        return self.folder / self.graph

    def fault(self, what: str) -> ConfigError:
        """The error for what is wrong with its files."""
        return ConfigError(f"the model hf:{self.repo}@{self.commit[:12]}: {what}", code="model_file")

    def _check(self, path: str, actual: str) -> None:
        if actual != self.sums[path]:
            raise self.fault(
                f"the file {path} is not the one that was pulled (its sha256 is {actual}, not {self.sums[path]}); "
                f"bring it back: sage models pull hf:{self.repo}@{self.commit}"
            )

    def _unreadable(self, path: str, exc: OSError) -> ConfigError:
        return self.fault(
            f"the file {path} cannot be read ({exc.strerror}); bring it back: sage models pull "
            f"hf:{self.repo}@{self.commit}"
        )


class Snapshots:
    """Those in a directory of models. Safe to use from several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self._models = directory
        self._root = directory / "onnx" / "hf"

    def find(self, source: HubSource) -> Snapshot | None:
        """The one that ``source`` means, the last pulled of several; ``None`` means that none is here."""
        fitting = [snapshot for snapshot in self._of(source.repo) if snapshot.is_meant_by(source)]
        return max(fitting, key=lambda snapshot: snapshot.pulled_at, default=None)

    def names(self) -> list[str]:
        """What can be named without a revision: ``hf:ORG/REPO``, and ``hf:ORG/REPO:FILE``."""
        repos = sorted({path.parent.relative_to(self._root).as_posix() for path in self._root.glob(f"*/*/*{_LIST}")})
        names: set[str] = set()
        for repo in repos:
            with contextlib.suppress(ConfigError):  # who asks for that one is told
                names |= {str(HubSource("hf", repo, snapshot.file)) for snapshot in self._of(repo)}
        return sorted(names)

    def obtain(self, source: HubSource, report: Report | None = None) -> Snapshot:
        """The one that ``source`` means, pulled if it is not here. Of several programs and threads, one pulls.

        Raises :class:`SageError` where it cannot be had.
        """
        snapshot = self.find(source)
        if snapshot is not None:
            return snapshot
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            with alone(self._models, wait=True):
                return self.find(source) or self.pull(source, report)
        except OSError as exc:
            raise disk_error(exc) from exc

    def pull(
        self,
        source: HubSource,
        report: Report | None = None,
        hub: Hub | None = None,
        listed: Sequence[RepoFile] | None = None,
    ) -> Snapshot:
        """Fetches what the hub has now under ``source``. The caller holds the directory (:func:`alone`), and may have
        ``listed`` the files already by this ``hub``.

        Raises :class:`SageError`, also for a content that has not the digest of ``source``; and ``OSError``.
        """
        if source.hub != "hf":
            raise Unsupported(
                f"'{source}': models in ONNX's format come from Hugging Face (hf:), whose commits pin them",
                param="name",
            )
        hub = hub or open_hub(source.hub)
        choice = choose_onnx(source, hub.files(source) if listed is None else listed)
        if hub.commit is None:
            raise UpstreamFailed(
                f"the hub {hub.endpoint} does not tell the commit of {source}, so that it cannot be pinned",
                code="hub_failed",
            )
        choice = OnnxChoice(choice.graph, tuple(_complete(hub, source, file) for file in choice.files))
        check_sizes(source, choice)
        folder = self._root / source.repo / hub.commit
        sums = self._fetch(Download(hub, source, report or _quiet), choice, folder)
        revisions = frozenset(filter(None, (source.revision,)))
        snapshot = Snapshot(
            source.repo,
            hub.commit,
            source.file,
            choice.graph,
            folder,
            _digest_of(sums),
            sums,
            revisions,
            time.time(),
        )
        self._keep(snapshot)
        if source.digest not in (None, snapshot.digest):
            raise snapshot.fault(
                f"the hub has another content now ({snapshot.digest}) than the one that was pinned ({source.digest})"
            )
        return snapshot

    def remove(self, source: HubSource) -> bool:
        """Deletes every snapshot that ``source`` means; tells whether there was one."""
        gone = [snapshot for snapshot in self._of(source.repo) if snapshot.is_meant_by(source)]
        for snapshot in gone:
            self._list(snapshot).unlink(missing_ok=True)
        left = {snapshot.folder for snapshot in self._of(source.repo)}
        for folder in {snapshot.folder for snapshot in gone} - left:
            shutil.rmtree(folder, ignore_errors=True)
        return bool(gone)

    def _fetch(self, download: Download, choice: OnnxChoice, folder: Path) -> dict[str, str]:
        targets = [folder / file.path for file in choice.files]
        for file, target in zip(choice.files, targets, strict=True):
            if file.sha256 is None:
                target.unlink(missing_ok=True)  # nothing tells whether it is the hub's
        download.check_disk(folder, choice.files, targets)
        for file, target in zip(choice.files, targets, strict=True):
            download.get(file, target)
        return {file.path: sha256_of(target) for file, target in zip(choice.files, targets, strict=True)}

    def _of(self, repo: str) -> Iterator[Snapshot]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self._root / repo):
                if entry.name.endswith(_LIST):
                    with contextlib.suppress(FileNotFoundError):
                        yield _read(repo, Path(entry.path))

    def _list(self, snapshot: Snapshot) -> Path:
        return snapshot.folder.with_name(f"{snapshot.commit}.{snapshot.digest[-16:]}{_LIST}")

    def _keep(self, snapshot: Snapshot) -> None:
        path = self._list(snapshot)
        with contextlib.suppress(FileNotFoundError, SageError):
            before = _read(snapshot.repo, path)
            snapshot = replace(snapshot, revisions=snapshot.revisions | before.revisions)
        kept = {
            "commit": snapshot.commit,
            "revisions": sorted(snapshot.revisions),
            "file": snapshot.file,
            "graph": snapshot.graph,
            "sums": dict(snapshot.sums),
            "pulled_at": snapshot.pulled_at,
        }
        new = path.with_suffix(".new")
        with new.open("w") as opened:
            json.dump(kept, opened, indent=1)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(path)
        sync_directory(path.parent)


def _complete(hub: Hub, source: HubSource, file: RepoFile) -> RepoFile:
    """Small files are not in the hub's large storage, which alone has checksums."""
    return file if file.size is not None and file.path.endswith(".json") else hub.complete(source, file)


def _digest_of(sums: Mapping[str, str]) -> str:
    lines = "".join(f"{path}\0{sums[path]}\n" for path in sorted(sums))
    return f"sha256-{hashlib.sha256(lines.encode()).hexdigest()[:32]}"


def not_pulled(source: HubSource) -> NotFound:
    """The error where a model is asked for that is not here."""
    return NotFound(
        f"the model '{source}' was not pulled yet; first: sage models pull {source}",
        param="model",
        code="model_not_found",
    )


def _read(repo: str, path: Path) -> Snapshot:
    try:
        kept = json.loads(path.read_bytes())
        sums = {str(file): str(sum) for file, sum in kept["sums"].items()}
        return Snapshot(
            repo,
            str(kept["commit"]),
            kept["file"],
            str(kept["graph"]),
            path.with_name(str(kept["commit"])),
            _digest_of(sums),
            sums,
            frozenset(map(str, kept["revisions"])),
            float(kept["pulled_at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(f"the list {path.name} of the model hf:{repo} is damaged; delete it and pull again") from exc


def _quiet(status: str, completed: int | None, total: int | None) -> None:
    """The progress of a pull that nobody watches."""
