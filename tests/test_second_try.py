"""What a run makes of tests that fail once, always, in a crash, or not at all for want of their file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

pytestmark = pytest.mark.slow

CONFTEST = f"""
import sys

sys.path.insert(0, {str(ROOT / "tests")!r})
import second_try

pytest_addoption = second_try.add_options
pytest_configure = second_try.register
"""


def run(directory: Path, *options: str, **files: str) -> tuple[int, list[str]]:
    """The status and the lines that pytest writes where these test files are, and no plugin but xdist."""
    (directory / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    ran = subprocess.run(
        [*command, *(("-p", "xdist", *options) if "-n" in options else options), "--second-try", "."],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ran.returncode, ran.stdout.splitlines()


def closing(lines: list[str]) -> str:
    return lines[-1].partition(" in ")[0]


TRIED = """
import pytest
from pathlib import Path

def tried():
    mark = Path(__file__).with_suffix(".tried")
    if mark.exists():
        return True
    mark.touch()
    return False
"""
ONCE = f"{TRIED}\ndef test_once():\n    assert tried(), 'the machine is busy'"
FIXTURE = f"{TRIED}\n@pytest.fixture\ndef it():\n    yield\n    assert tried()\n\ndef test_it(it): pass"
SKIPPED = f"{TRIED}\ndef test_skipped():\n    if tried(): pytest.skip()\n    assert 0"
ALWAYS = "def test_always(): assert 0"
ORDER = "seen = []\ndef test_first(): seen.append(1)\ndef test_second(): assert not seen"
MANY = "import pytest\n@pytest.mark.parametrize('x', range(6))\ndef test_many(x): assert 0"
CRASH = "import os\ndef test_crash(): os._exit(3)"
CRASH_AT_LOADING = "import os\nif os.environ.get('PYTEST_XDIST_WORKER') == 'gw0': os._exit(3)"
PROCESSES = ("-n", "2", "--dist", "loadfile", "--max-worker-restart", "0")
BROKEN = "import nothing_of_this_name"


@pytest.mark.parametrize("options", [(), PROCESSES])
def test_what_fails_once_is_told_of_and_passes(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, lines = run(tmp_path, *options, once=ONCE, fixture=FIXTURE, steady="def test_steady(): pass")
    assert (status, closing(lines)) == (0, "3 passed"), lines
    unsteady = [line.split()[1] for line in lines if line.startswith("unsteady: ")]
    assert sorted(unsteady) == ["test_fixture.py::test_it", "test_once.py::test_once"]
    assert any("AssertionError: the machine is busy" in line for line in lines)
    assert not any(line.startswith("FAILED") for line in lines)


def test_what_fails_twice_or_only_after_the_tests_before_it_fails(tmp_path: Path) -> None:
    status, lines = run(tmp_path, once=ONCE, always=ALWAYS, order=ORDER, skipped=SKIPPED)
    assert (status, closing(lines)) == (1, "3 failed, 2 passed"), lines
    assert [line for line in lines if line.startswith("unsteady: ")] == [
        "unsteady: test_once.py::test_once failed once and passed once"
    ]
    failed = {line.split()[1] for line in lines if line.startswith("FAILED")}
    assert failed == {"test_always.py::test_always", "test_order.py::test_second", "test_skipped.py::test_skipped"}


@pytest.mark.parametrize(
    ("file", "options", "why"),
    [
        (MANY, (), "more than 5 tests failed"),
        (CRASH, PROCESSES, "a process of the tests crashed"),
        (CRASH_AT_LOADING, PROCESSES, "a process of the tests crashed"),
        (BROKEN, ("--continue-on-collection-errors",), "test_file.py could not be loaded"),
    ],
)
def test_what_is_no_accident_has_no_second_try(tmp_path: Path, file: str, options: tuple[str, ...], why: str) -> None:
    status, lines = run(tmp_path, *options, once=ONCE, file=file)
    assert status == 1, lines
    assert any(f"no second try: {why}" in line for line in lines), lines
    assert not any("second try, alone" in line or line.startswith("unsteady") for line in lines)


def test_a_file_that_cannot_be_loaded_and_no_test_at_all_have_statuses_of_their_own(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "-k", "nothing", once=ONCE)
    assert (status, closing(lines)) == (5, "1 deselected")
    status, lines = run(tmp_path, once=ONCE, file=BROKEN)
    assert status == 2, lines
