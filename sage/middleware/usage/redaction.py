"""Regular expressions of teams over texts that are to be kept, in a process of their own: on some texts they take ages,
and cannot be stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_SECONDS = 2
_PATIENCE = 20.0
"""Seconds until the process is killed though it has not had its seconds of the processor."""
REDACTED = "[redacted]"
_PROGRAM = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))
patterns, texts = json.load(sys.stdin)
for pattern in map(re.compile, patterns):
    texts = [pattern.sub({REDACTED!r}, text) for text in texts]
json.dump(texts, sys.stdout)
"""


def redacted(patterns: Sequence[str], texts: Sequence[str]) -> list[str] | None:
    """``texts`` with :data:`REDACTED` in place of all that a pattern matches; ``None`` means that it took too long, so
    that nothing of them may be kept. Blocks."""
    if not patterns:
        return list(texts)
    try:
        process = subprocess.run(  # noqa: S603 (our own program)
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([list(patterns), list(texts)]).encode(),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
        answer = json.loads(process.stdout) if process.returncode == 0 else None
    except (subprocess.TimeoutExpired, OSError, ValueError):
        return None
    return answer if isinstance(answer, list) and len(answer) == len(texts) else None
