"""Regular expressions of callers, in a process of their own: on some texts they take ages, and cannot be stopped."""

from __future__ import annotations

import asyncio
import json
import sys

_LONGEST_TEXT = 200_000
_SECONDS = 1
_PATIENCE = 30.0
"""Seconds until the process is killed though it has not had its seconds of the processor."""
_PROGRAM = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))
regex, text = json.load(sys.stdin)
print(int(re.search(regex, text) is not None))
"""


async def regex_match(regex: str, text: str) -> float | None:
    """1 if ``regex`` finds something in ``text``, else 0; ``None`` means that it took too long."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-c", _PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        task = json.dumps([regex, text[:_LONGEST_TEXT]]).encode()
        output, _ = await asyncio.wait_for(process.communicate(task), _PATIENCE)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return {b"1": 1.0, b"0": 0.0}.get(output.strip()) if process.returncode == 0 else None
