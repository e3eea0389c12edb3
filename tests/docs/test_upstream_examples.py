"""`examples/upstream/`: programs as upstream SAGE's users write them run, and say which names are others here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from loaded_process import loaded_python
from sage_process import ROOT, environment

PROGRAMS = ROOT / "examples" / "upstream"

pytestmark = pytest.mark.slow


def run(name: str, place: Path) -> list[str]:
    env = {**environment(place), "PYTHONPATH": str(ROOT)}
    command = [*loaded_python(env), str(PROGRAMS / f"{name}.py")]
    done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a name of upstream SAGE; write here: " in done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("hello_world", ["HELLO, WORLD 1", "HELLO, WORLD 2", "HELLO, WORLD 3", "done"]),
        ("wordcount", ["a: 1", "cat: 2", "dog: 2", "sees: 1", "sleeps: 2", "the: 3"]),
        ("wordcount_stream", ["words: ['batches', 'counted', 'never', 'streams', 'words']"]),
        ("keyed_join", ["Amina ordered lamp", "Mei ordered cup", "Mei ordered tea"]),
        ("future", ["enters: 0", *(f"count: {n}" for n in range(1, 6)), "the loop has ended"]),
        (
            "services",
            [
                "prices started",
                "Mei, visit 1: tea for 4 CNY",
                "Jonas, visit 1: cup for 7 CNY",
                "Mei, visit 2: cup for 7 CNY",
                "prices terminated",
            ],
        ),
        (
            "memory",
            [
                *["stored: True"] * 3,
                "found: Mei drinks green tea.",
                "keys: ['raw/Mei dri', 'raw/The gar', 'raw/The ket']",
            ],
        ),
        ("remote", ["total: 30", "done"]),
    ],
)
def test_a_program_prints_what_it_should(name: str, lines: list[str], tmp_path: Path) -> None:
    printed = run(name, tmp_path)
    assert (sorted(printed) if name == "keyed_join" else printed) == lines


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("source", ["[BothSink] FIRST", "[BothSink] SECOND", "[BothSink] tick 0", "[BothSink] tick 1"]),
        (
            "comap",
            [
                *("functions: h=-1", "functions: h=45", "functions: t=21.5", "functions: t=31.0"),
                *("sensors: 1013.2 hPa", "sensors: 21.5 °C", "sensors: 31.0 °C (hot)", "sensors: 45 %"),
            ],
        ),
        (
            "batch",
            [
                *("collection 3.5", "countdown 1", "countdown 3", "countdown 5", "list a", "list b"),
                *("range 0", "range 1", "squares 0", "squares 1", "squares 4", "squares 9"),
            ],
        ),
    ],
)
def test_a_program_prints_what_it_should_in_any_order(name: str, lines: list[str], tmp_path: Path) -> None:
    assert sorted(run(name, tmp_path)) == lines


def test_branches_of_an_endless_source_meet_again(tmp_path: Path) -> None:
    printed = set(run("connected_streams", tmp_path))
    assert {
        "[FinalSink] 1 is odd",
        "[FinalSink] 2 is even",
        "[FinalSink] 6 is even",
        "[FinalSink] 6 is large",
    } <= printed
    assert "[FinalSink] 1 is large" not in printed


def test_the_readme_lists_every_program() -> None:
    listed = re.findall(r"^\| \[(\w+\.py)\]", (PROGRAMS / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(file.name for file in PROGRAMS.glob("*.py"))
