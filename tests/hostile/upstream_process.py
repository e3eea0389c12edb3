"""The upstream of the gateway under attack, as a program: prints its URL, and ends when its stdin ends."""

from __future__ import annotations

import re
import sys

from upstream import Received, Script, Upstream, openai_like

_WAIT = re.compile(rb'"wait ([0-9.]+)"')


def answer(request: Received) -> Script:
    """What OpenAI would; for a message ``wait N``, N seconds later."""
    wanted = _WAIT.search(request.raw[-4096:])
    script = openai_like(request)
    if wanted is None:
        return script
    (pause, data), *rest = script.writes
    return Script(((pause + float(wanted[1]), data), *rest), script.end)


def main() -> None:
    with Upstream() as upstream:
        upstream.handler = answer
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
