"""What requests and streams through the gateway cost, beside nginx and other gateways in the same run.

Starts a fast local upstream, nginx, a bare aiohttp pass-through, the gateway (one worker, key check and access log on)
and the peers asked for, and sends all of them the same load in short turns. Every answer is checked whole. Exit status
1 if any answer (but a peer's) was wrong or missing, never because of speed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import nginx
import subjects
import uvloop
from bench import Bench, Row
from governed import govern
from peers import NGINX_FILES, PEERS
from processes import BenchmarkError
from report import Report
from rows import PROMPTS, ROWS
from subjects import Place, Subject
from surface_costs import each_surface


def _subjects(stack: ExitStack, folder: Path, options: argparse.Namespace) -> list[Subject]:
    peers = [one for one in PEERS if one.name in options.peer]
    for one in peers:
        one.executable(options.peers_in)  # raises for a missing one before any is started
    cores = _pinned() if options.pin else None
    direct = stack.enter_context(subjects.upstream(folder, ["--corrupt", str(options.corrupt)]))
    place = Place(folder, direct.target.port, "start" in options.rows, cores)
    rows = frozenset(options.rows)
    started = [direct, *(stack.enter_context(subjects.peer(place, one, options.peers_in)) for one in peers)]
    if "nginx" in options.peer and (prompts := rows & PROMPTS):
        started.append(stack.enter_context(subjects.peer(place, NGINX_FILES, None, prompts)))
    started.append(stack.enter_context(subjects.pass_through(place)))
    started.append(stack.enter_context(subjects.gateway(place, options.access_log)))
    if "surfaces" in rows:
        started.extend(each_surface(started[-1]))
    if "workers" in rows:
        started.append(stack.enter_context(subjects.gateway(place, options.access_log, workers=2)))
    if "governed" in rows:
        started.append(stack.enter_context(subjects.gateway(place, options.access_log, govern=govern)))
    return started


def _pinned() -> frozenset[int]:
    """Keeps load and upstream on one processor; the others, which are for the server under test."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise BenchmarkError("--pin needs two processors")
    os.sched_setaffinity(0, {first})
    return frozenset(others)


def measure(options: argparse.Namespace, rows: list[Row]) -> Report:
    """Starts everything and runs the load; whatever happens, nothing is left running."""
    subjects.require_linux()
    gc.disable()  # a pause of our own would be seen as the server's
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sage-bench-")))
        chosen = _subjects(stack, folder, options)
        bench = Bench(chosen[0].target.port, options.scale, options.rounds)
        report = Report(bench)

        def show(row: Row) -> None:
            # With --json the table shows how far the run is.
            print("\n".join(report.table(row)), file=sys.stderr if options.json else sys.stdout, flush=True)

        try:
            uvloop.run(bench.run(rows, chosen, show))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, _ended)
    return report


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    add = parser.add_argument
    add("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=f"only these rows: {', '.join(names)}")
    peers = [peer.name for peer in PEERS]
    add("--peer", action="append", choices=peers, help="measure this too, may be given again (nginx, where installed)")
    add("--peers-in", type=Path, help="a folder with an environment for each peer, named as it is")
    add("--pin", action="store_true", help="one processor for load and upstream, the others for the server under test")
    add("--rounds", type=float, default=1.0, help="rounds as a share of each row's own number (1)")
    add("--scale", type=float, default=1.0, help="requests of each turn as a share of the row's own number (1)")
    add("--quick", action="store_true", help="a third of the rounds, for a first look")
    add("--access-log", action=argparse.BooleanOptionalAction, default=True, help="the gateway's own, into a file")
    add("--corrupt", type=float, default=0.0, help="share of answers that the upstream spoils: each must count")
    add("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(argv)
    options.rounds *= 1 / 3 if options.quick else 1
    if options.peer is None:
        options.peer = ["nginx"] if nginx.executable() else []
    return options


def _ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    signal.signal(signal.SIGTERM, _ended)
    try:
        report = measure(options, [row for row in ROWS if row.name in options.rows])
    except BenchmarkError as exc:
        print(f"benchmark failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended before its time; nothing is left running", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print("\n".join([*report.goals(), *report.failures()]))
    return 1 if report.failed({"direct", "pass-through", "gateway"}) else 0


if __name__ == "__main__":
    sys.exit(main())
