"""The child program that pulls one model from a hub: chooses its file, fetches it, checks it, and puts it in its place.

``python -m sage.middleware.providers.local.hub_pull`` reads its options (:class:`PullTask`) as JSON from the
environment variable ``SAGE_PULL_OPTIONS``. It prints JSON lines on stdout: ``{"chosen": …}`` once, then
``{"status", "completed", "total"}`` for each step, and last ``{"done": …}`` or ``{"error": {…}}``. It ends when its
stdin ends, so that no pull outlives who asked for it.

One pull at a time runs in a directory; one that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.errors import SageError, UpstreamFailed
from sage.middleware.hub.clients import open_hub
from sage.middleware.hub.downloads import Download, alone, disk_error
from sage.middleware.hub.onnx_choice import has_onnx
from sage.middleware.hub.snapshots import Snapshots
from sage.middleware.hub.sources import HubSource, parse_source
from sage.middleware.providers.local.gguf import read_gguf
from sage.middleware.providers.local.hub_choice import Choice, choose, default_name, quantisation

_MEMORY = 2**30
"""Bytes of data that this program may have."""


@dataclass(frozen=True)
class PullTask:
    """What the gateway hands to this program."""

    source: str
    directory: str
    """Where the files of models lie; each hub and repository has a directory in it."""


def main() -> int:
    """The exit status: 0 if the model is in its place."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _limit_memory()
    try:
        options = PullTask(**json.loads(os.environ["SAGE_PULL_OPTIONS"]))
        source, directory = parse_source(options.source), Path(options.directory)
        directory.mkdir(parents=True, exist_ok=True)
        with alone(directory):
            _say(done=_pull(source, directory))
    except MemoryError:
        _say(error={"kind": "UpstreamFailed", "message": "the hub's list of files is too large", "code": "hub_failed"})
    except SageError as exc:
        _say(error={"kind": type(exc).__name__, "message": exc.message, "code": exc.code, "param": exc.param})
    except OSError as exc:
        error = disk_error(exc)
        _say(error={"kind": type(error).__name__, "message": error.message, "code": error.code, "param": None})
    else:
        return 0
    return 1


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _limit_memory() -> None:
    """What a hub sends must not take the machine's memory. The files do not pass through it."""
    if sys.platform == "linux":  # elsewhere this limit does not count what is allocated
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _step(status: str, completed: int | None = None, total: int | None = None) -> None:
    _say(status=status, completed=completed, total=total)


def _pull(source: HubSource, directory: Path) -> dict[str, Any]:
    hub = open_hub(source.hub)
    listed = hub.files(source)
    if has_onnx(source, listed):
        _say(onnx=str(HubSource(source.hub, source.repo, source.file)))
        return {"digest": Snapshots(directory).pull(source, _step, hub, listed).name}
    choice = choose(source, listed)
    files = [hub.complete(source, file) for file in choice.files]
    place = directory / source.hub / source.repo
    targets = [place / file.path for file in files]
    _say(chosen={"name": default_name(source, choice), "path": str(targets[0].relative_to(directory))})
    download = Download(hub, source, _step)
    download.check_disk(place, files, targets)
    _step(_chosen_text(choice))
    for file, target in zip(files, targets, strict=True):
        download.get(file, target)
    head = read_gguf(targets[0])
    if head is None:
        for target in targets:
            target.unlink()
        raise UpstreamFailed(f"{source}: '{files[0].path}' is not a GGUF file", code="hub_not_gguf")
    return {
        "paths": [str(target.relative_to(directory)) for target in targets],
        "sha256": [file.sha256 for file in files],
        "predicts": head.predicts,
        "chats": bool(head.template),
    }


def _chosen_text(choice: Choice) -> str:
    if not choice.others:
        return f"{choice.name}"
    kinds = ", ".join(sorted({quantisation(other) or other for other in choice.others})[:12])
    return f"{choice.name} (others: {kinds})"


if __name__ == "__main__":
    sys.exit(main())
