"""What a request does in Python, room by room: byte codes and calls, counted, so free of the machine's noise.

Runs the gateway in a thread of this process before the scripted upstream, sends it one request after the other, and
counts on its event loop alone. Time spent inside C (sockets, JSON, hashes, the loop itself) does not show: measure it
with ``gateway.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import subjects
import uvloop
from governed import govern
from load import Load, Target
from surfaces import SURFACES
from wire import PUBLIC_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL, Ask

from sage.middleware.app.main import create_app
from sage.middleware.app.server import make_server
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.settings.limits import Limits
from sage.middleware.settings.settings import Settings

_ROOT = Path(__file__).parents[1]
_PACKAGES = Path(sysconfig.get_paths()["purelib"])


class Counts:
    """What one thread executes while it is on: byte codes, Python functions and C functions, each by code."""

    def __init__(self) -> None:
        self.bytecodes: Counter[CodeType] = Counter()
        self.calls: Counter[CodeType] = Counter()
        self.c_calls: Counter[CodeType] = Counter()

    def start(self) -> None:
        """To be called by the thread that is counted."""
        sys.setprofile(self._profile)
        sys.settrace(self._trace)

    def stop(self) -> None:
        """To be called by the same thread."""
        sys.settrace(None)
        sys.setprofile(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.bytecodes[frame.f_code] += 1
        return self._opcode

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.calls[frame.f_code] += 1
        elif event == "c_call":
            self.c_calls[frame.f_code] += 1


def room(code: CodeType) -> str:
    """The folder of ours or the package of others that a function belongs to."""
    path = Path(code.co_filename)
    if path.is_relative_to(_ROOT / "sage"):
        return ".".join(path.relative_to(_ROOT).parts[:-1])
    parts = path.parts
    return parts[parts.index("site-packages") + 1] if "site-packages" in parts else "python"


@contextmanager
def served(
    folder: Path, upstream_port: int, options: argparse.Namespace
) -> Iterator[tuple[Target, asyncio.AbstractEventLoop]]:
    """The gateway on an event loop of its own in a thread: key check, metrics, ledger and access log on; ``governed``
    by limits and budgets too."""
    llm: dict[str, Any] = {
        "providers": {
            "fast": {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": UPSTREAM_KEY}
        },
        "models": {PUBLIC_MODEL: {"deployments": [{"provider": "fast", "model": UPSTREAM_MODEL}]}},
    } | ({"transport": options.transport} if options.transport else {})
    sections: dict[str, Any] = {"llm": llm, "limits": {"redis": options.redis}}
    if options.governed:
        govern(sections)
    settings = Settings.model_validate({"data_dir": folder / "data", **sections})
    accounts = Accounts(settings.data_dir, settings.auth)
    limits = Limits(rpm=10**6, tpm=10**9, concurrent=1000) if options.limits else None
    accounts.users.add("bench", secrets.token_urlsafe(24), limits=limits)
    key = accounts.keys.create_for("bench", KeyRequest("bench", limits=limits)).secret
    accounts.close()
    sock = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    server = make_server(create_app(settings), settings, ready.set)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([sock])))
    thread.start()
    try:
        if not ready.wait(30):
            raise SystemExit("the gateway was not ready in 30 s")
        surface = SURFACES[options.surface]
        yield Target("gateway", sock.getsockname()[1], PUBLIC_MODEL, key, PUBLIC_MODEL, surface), loop
    finally:
        server.should_exit = True
        thread.join(15)


def count(options: argparse.Namespace) -> Counts:
    """Counts of ``options.requests`` requests, after as many that are not counted."""
    counts = Counts()
    ask = Ask(chunks=options.chunks, prompt=options.prompt)

    async def send(target: Target, loop: asyncio.AbstractEventLoop) -> None:
        async with Load(target, 1, ask=ask) as load:
            await load.run(options.requests)
            loop.call_soon_threadsafe(counts.start)
            result = await load.run(options.requests)
            loop.call_soon_threadsafe(counts.stop)
        if result.failures:
            raise SystemExit(f"wrong answers: {dict(result.failures)}")

    with (
        tempfile.TemporaryDirectory(prefix="sage-bench-") as name,
        open(os.devnull, "w") as nowhere,
        subjects.upstream(Path(name), []) as upstream,
        contextlib.redirect_stderr(nowhere),  # the access log
        served(Path(name), upstream.target.port, options) as (target, loop),
    ):
        uvloop.run(send(target, loop))
    return counts


def by_room(counts: Counts, requests: int) -> dict[str, tuple[float, float, float]]:
    """Byte codes, Python calls and C calls of one request by room, most byte codes first."""
    kinds = []
    for seen in (counts.bytecodes, counts.calls, counts.c_calls):
        rooms = Counter[str]()
        for code, number in seen.items():
            rooms[room(code)] += number
        kinds.append(rooms)
    first, second, third = kinds
    return {
        name: (number / requests, second[name] / requests, third[name] / requests)
        for name, number in first.most_common()
    }


def table(counts: Counts, requests: int, functions: int) -> Iterator[str]:
    """Counts of one request by room, then the functions with most byte codes."""
    rooms = by_room(counts, requests)
    yield f"{'room':44}{'byte codes':>12}{'calls':>9}{'C calls':>9}"
    for name, (bytecodes, calls, c_calls) in rooms.items():
        yield f"{name:44}{bytecodes:12.1f}{calls:9.1f}{c_calls:9.1f}"
    bytecodes, calls, c_calls = (sum(kind) for kind in zip(*rooms.values(), strict=True))
    yield f"{'all':44}{bytecodes:12.1f}{calls:9.1f}{c_calls:9.1f}"
    for code, number in counts.bytecodes.most_common(functions):
        where = f"{room(code)}.{Path(code.co_filename).stem}.{code.co_qualname}"
        yield f"{number / requests:10.1f}  {counts.calls[code] / requests:6.2f} ×  {where}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--requests", type=int, default=200, help="how many are counted (200)")
    add("--surface", choices=[*SURFACES], default="chat", help="which one is asked (chat)")
    add("--chunks", type=int, default=0, help="chunks of a stream; 0: an answer that does not stream")
    add("--prompt", type=int, default=0, help="bytes of a prompt in front of the question")
    add("--transport", help="llm.transport: builtin or aiohttp")
    add("--limits", action="store_true", help="the key and its user have limits of rates, of all three kinds")
    add("--redis", help="limits.redis: where they are counted")
    add("--governed", action="store_true", help="with limits and budgets on the user and the model")
    add("--functions", type=int, default=0, metavar="N", help="the N functions with most byte codes too")
    add("--json", action="store_true", help="byte codes, calls and C calls of a request by room, as JSON")
    options = parser.parse_args()
    counts = count(options)
    if options.json:
        print(json.dumps(by_room(counts, options.requests), indent=2))
    else:
        print("\n".join(table(counts, options.requests, options.functions)))


if __name__ == "__main__":
    main()
