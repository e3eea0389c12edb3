"""One attack, measured: delays of the other user without it and beside it, memory, and what is left afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hostile.attack import Attack, Probe
from hostile.bystander import ALWAYS, Bystander, Delays
from hostile.target import Target
from hostile.victim import Usage, Victim, Watching

_QUIET = 2.0
"""Seconds of measuring without an attack."""
LEFT_MEMORY, LEFT_FILES = 64 * 2**20, 64
"""What may be left of an attack: memory that the allocator keeps, and connections that are kept."""


@dataclass(frozen=True)
class Trial:
    """What was measured. ``quiet`` is of the same minute, without the attack."""

    attack: Attack
    outcome: Mapping[str, Any]
    quiet: Mapping[str, Delays]
    beside: Mapping[str, Delays]
    after: Mapping[str, Delays]
    growth: int
    left: Usage
    seconds: float

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (*ALWAYS, *self.attack.probes)

    def faults(self, *, slack: float = 0.0) -> list[str]:
        """What is not as it should be; ``slack``: seconds on top of each bound, for a machine that has other work."""
        faults = [f"the attacker: {self.outcome['wrong']}"] if "wrong" in self.outcome else []
        for probe in self.probes:
            for when, seen in (("beside", self.beside[probe.name]), ("after", self.after[probe.name])):
                if seen.failures:
                    faults.append(f"{probe.name} {when} it failed {len(seen.failures)} times: {seen.failures[0]}")
                if seen.worst > probe.bound + slack:
                    faults.append(f"{probe.name} {when} it took {seen.worst * 1000:.0f} ms")
        if self.growth > self.attack.memory:
            faults.append(f"memory grew by {self.growth >> 20} MiB")
        if self.left.memory > LEFT_MEMORY or self.left.files > LEFT_FILES:
            faults.append(f"{self.left.memory >> 20} MiB and {self.left.files} files are left of it")
        return faults


def trial(attack: Attack, victim: Victim, *, full: bool) -> Trial:
    """Measures ``attack``; ``full`` means the counts of `make hostile`."""
    bystander, probes = Bystander(victim.url, victim.bystander), (*ALWAYS, *attack.probes)
    quiet_for = _QUIET if full else _QUIET / 4
    with bystander.working(probes) as quiet:
        time.sleep(quiet_for)
    began = time.monotonic()
    with Watching(victim) as watching, bystander.working(probes) as beside:
        outcome = _run(attack, Target(victim.url, victim.attacker, full))
        seconds = time.monotonic() - began
    with bystander.working(probes) as after:
        time.sleep(quiet_for)
    left = watching.wait_back(LEFT_MEMORY, LEFT_FILES)
    return Trial(attack, outcome, quiet, beside, after, watching.growth, left, seconds)


def _run(attack: Attack, target: Target) -> Mapping[str, Any]:
    """The attack in a process of its own, whose work delays neither the gateway nor a probe by our lock."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hostile.attacker", attack.name],
            input=json.dumps(asdict(target)),
            env=env,
            capture_output=True,
            text=True,
            timeout=attack.seconds,
        )
    except subprocess.TimeoutExpired:
        return {"wrong": f"it was stuck for {attack.seconds:g} s"}
    try:
        outcome: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"wrong": done.stderr[-2000:]}
    return outcome
