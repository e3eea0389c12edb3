"""`make hostile`: all attacks with full counts, or those named; prints a table, exits with 1 for a broken promise."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from hostile.attacks import ATTACKS
from hostile.trial import Trial, trial
from hostile.victim import running_victim


def main() -> int:
    parser = argparse.ArgumentParser(prog="make hostile", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"attacks: {', '.join(ATTACKS)}")
    parser.add_argument("--small", action="store_true", help="the counts of `make check`")
    parser.add_argument("--slack", type=float, default=0.0, help="milliseconds on top of each bound, on a busy machine")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ATTACKS):
        parser.error(f"no attack {', '.join(sorted(unknown))}; there are {', '.join(ATTACKS)}")
    broken = 0
    with tempfile.TemporaryDirectory() as directory, running_victim(Path(directory)) as victim:
        say(f"{'attack':24} {'seconds':>7}  {'worst ms, quiet → beside → after':48} {'peak MiB':>8} {'left':>10}")
        for name in options.names or ATTACKS:
            measured = trial(ATTACKS[name], victim, full=not options.small)
            say(row(measured))
            faults = measured.faults(slack=options.slack / 1000)
            broken += bool(faults)
            for fault in faults:
                say(f"    WRONG: {fault}")
    say("every promise was kept" if not broken else f"{broken} attacks broke a promise")
    return 1 if broken else 0


def row(measured: Trial) -> str:
    """One line of the table."""
    delays = ", ".join(
        f"{probe.name} "
        + " → ".join(
            f"{seen[probe.name].worst * 1000:.0f}" for seen in (measured.quiet, measured.beside, measured.after)
        )
        for probe in measured.probes
    )
    left = f"{measured.left.memory >> 20} MiB, {measured.left.files} files"
    outcome = ", ".join(f"{name}: {value}" for name, value in measured.outcome.items() if name != "wrong")
    growth = f"{measured.growth >> 20:+}"
    return f"{measured.attack.name:24} {measured.seconds:7.1f}  {delays:48} {growth:>8} {left:>10}  {outcome}"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
