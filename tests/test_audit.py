"""``make audit`` says that packages are good only if somebody has really looked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

# What pip-audit prints, by what it knows. It gets the file of requirements after ``-r``.
STAND_IN = """
import json, sys
names = open(sys.argv[sys.argv.index("-r") + 1]).read().split()
known = {known!r}
packages = [dict(zip(("name", "version"), name.split("=="))) for name in names]
for package in packages:
    faults = [fault for name, fault in known.items() if package["name"] == name]
    package["vulns"] = [{{"id": fault}} for fault in faults if fault]
    if None in faults:
        package.pop("vulns")
print(json.dumps({{"dependencies": packages}}))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    audit = [sys.executable, str(ROOT / ".ci/audit.py"), *command]
    return subprocess.run(audit, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "status", "said"),
    [
        ({"jinja2": "PYSEC-1", "aiohttp": "PYSEC-2"}, 1, "==3"),
        ({}, 2, "COULD NOT LOOK: pip-audit knows nothing against jinja2==2.4.1"),
        ({"jinja2": "PYSEC-1", "aiohttp": None}, 2, "COULD NOT LOOK at 1 packages: aiohttp=="),
    ],
)
def test_what_was_not_looked_up_is_not_called_good(
    tmp_path: Path, known: dict[str, str | None], status: int, said: str
) -> None:
    script = tmp_path / "pip_audit.py"
    script.write_text(STAND_IN.format(known=known))
    done = run(sys.executable, str(script))
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done


@pytest.mark.slow
def test_no_pip_audit_and_one_that_fails_say_so() -> None:
    assert "COULD NOT LOOK: pip-audit cannot be run" in run("/nothing/here").stderr
    done = run(sys.executable, "-c", "import sys; sys.exit('no network')")
    assert (done.returncode, "COULD NOT LOOK: pip-audit gave no report: no network" in done.stderr) == (2, True)
