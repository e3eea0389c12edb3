"""Runs :mod:`sage.middleware.providers.local.hub_pull` in a child process, and reads what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import sage.errors
from sage.errors import SageError, UpstreamFailed
from sage.middleware.hub.sources import HubSource

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
        *("XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", *_PROXIES, *map(str.lower, _PROXIES)),
    }
)
_INHERITED_PREFIXES = ("HF_", "MODELSCOPE_", "LC_", "COVERAGE_")
_LONGEST_LINE = 2**20


async def run_pull(source: HubSource, directory: Path) -> AsyncGenerator[dict[str, Any], None]:
    """What the child says, as it says it; the last is ``{"done": …}``. To close this ends the child.

    Raises the child's error.
    """
    options = json.dumps({"source": str(source), "directory": str(directory)})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sage.middleware.providers.local.hub_pull"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(os.environ)
        | {"SAGE_PULL_OPTIONS": options, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        limit=_LONGEST_LINE,
        start_new_session=True,  # a Ctrl-C in the terminal is its parent's to handle
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log = asyncio.create_task(_last_lines(process.stderr))
    try:
        async for raw in process.stdout:
            line = _read(raw)
            if line is None:
                continue
            if "error" in line:
                raise _error(line["error"])
            yield line
            if "done" in line:
                return
        said = " ".join(await log)
        raise UpstreamFailed(f"the pull of {source} ended before it was done: {said or 'no reason given'}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        log.cancel()


def _read(raw: bytes) -> dict[str, Any] | None:
    """One line of the child; ``None`` for what a library may have printed."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What reaches a hub: paths, proxies and the hubs' own variables, and none of the gateway's secrets."""
    return {k: v for k, v in environ.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES)}


async def _last_lines(stream: asyncio.StreamReader) -> list[str]:
    lines: deque[str] = deque(maxlen=3)
    async for line in stream:
        lines.append(line.decode("utf-8", "replace").strip())
    return list(lines)


def _error(told: Mapping[str, Any]) -> SageError:
    kind = getattr(sage.errors, str(told["kind"]), UpstreamFailed)
    details = {"param": told.get("param"), "code": told.get("code")}
    if not isinstance(kind, type) or not issubclass(kind, SageError) or kind is sage.errors.MissingExtra:
        error: SageError = sage.errors.ConfigError(told["message"], **details)
        return error
    return kind(told["message"], **details)
