"""Looks for known vulnerabilities in what the lock files name, with the pip-audit that the arguments run, and says
whether it really looked.

Status 0: nothing is known against any package. 1: the packages that something is known against are listed. 2: it could
not look, for the reason that it gives. Beside the locks it asks about a package with known vulnerabilities: a service
that knows nothing of that one has told nothing about the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = ("requirements/serve.txt", "requirements/dev.txt")
CONTROL = "jinja2==2.4.1"
SECONDS = 300


class CannotAudit(Exception):
    """Nothing is known about the packages, not even that they are good."""


def audit(pip_audit: list[str], requirements: Path) -> dict[str, list[str]]:
    """The vulnerabilities of each package of ``requirements`` that pip-audit looked up, by ``name==version``."""
    command = [*pip_audit, "-r", str(requirements), "--disable-pip", "--no-deps", "-f", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        raise CannotAudit(f"pip-audit did not end within {SECONDS} s") from None
    except OSError as exc:
        raise CannotAudit(f"pip-audit cannot be run: {exc}") from None
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CannotAudit(f"pip-audit gave no report: {last[0]}") from None
    return {
        f"{package['name']}=={package['version']}": [fault["id"] for fault in package["vulns"]]
        for package in packages
        if "vulns" in package
    }


def pins(lock: Path) -> list[str]:
    """The packages of a lock file as ``name==version``, without hashes and markers."""
    return re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)


def main(pip_audit: list[str]) -> int:
    """Audits the packages of all locks at once, with the command ``pip_audit``; returns the exit status."""
    wanted = sorted({pin for lock in LOCKS for pin in pins(Path(lock))})
    with tempfile.TemporaryDirectory() as directory:
        listed, control = Path(directory, "listed.txt"), Path(directory, "control.txt")
        listed.write_text("\n".join(wanted), encoding="utf-8")
        control.write_text(CONTROL, encoding="utf-8")
        try:
            if not any(audit(pip_audit, control).values()):
                raise CannotAudit(f"pip-audit knows nothing against {CONTROL}, which has known vulnerabilities")
            found = audit(pip_audit, listed)
        except CannotAudit as exc:
            print(f"audit: COULD NOT LOOK: {exc}", file=sys.stderr)  # noqa: T201
            return 2
    if len(found) < len(wanted):
        missing = sorted({pin.lower() for pin in wanted} - {name.lower() for name in found})
        print(f"audit: COULD NOT LOOK at {len(wanted) - len(found)} packages: {' '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 2
    bad = {name: faults for name, faults in found.items() if faults}
    for name, faults in bad.items():
        print(f"audit: {name}: {', '.join(faults)}")  # noqa: T201
    print(f"audit: looked at {len(found)} packages; something is known against {len(bad)} of them")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
