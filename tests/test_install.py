"""What `make` shows while it installs a lock: the size, how far it is, and pip's own words where it fails."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from project import ROOT

INSTALL = ROOT / "requirements" / "install.py"


def write_wheel(directory: Path) -> str:
    """A wheel without code; its sha256."""
    file = directory / "nothing_much-1.0-py3-none-any.whl"
    info = "nothing_much-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("nothing_much.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nothing-much\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def install(directory: Path, lock: str) -> subprocess.CompletedProcess[str]:
    (directory / "lock.txt").write_text(lock)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env = {**kept, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(directory), "PIP_TARGET": str(directory / "to")}
    command = [sys.executable, str(INSTALL), "lock.txt", "5 MB to download"]
    return subprocess.run(command, env=env, cwd=directory, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_it_says_the_size_first_and_installs(tmp_path: Path) -> None:
    done = install(tmp_path, f"nothing-much==1.0 --hash=sha256:{write_wheel(tmp_path)}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "installing 1 packages from lock.txt: 5 MB to download"
    assert (tmp_path / "to" / "nothing_much.py").exists()
    assert done.stderr == ""


@pytest.mark.slow
def test_a_failure_shows_what_pip_said(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    done = install(tmp_path, f"nothing-much==1.0 --hash=sha256:{'0' * 64}\n")
    assert done.returncode == 1
    assert "DO NOT MATCH" in done.stderr


def test_make_says_the_sizes_that_the_readme_says() -> None:
    (size,) = re.findall(
        r"SERVE_SIZE := about (\d+ MB) to download, ([\d.]+ GB) on disk", (ROOT / "Makefile").read_text()
    )
    assert f"{size[0]} to download, {size[1]} on disk" in (ROOT / "README.md").read_text(encoding="utf-8")
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert size[0] in chinese
    assert size[1] in chinese


def test_progress_is_shown_while_pip_works() -> None:
    sys.path.insert(0, str(INSTALL.parent))
    try:
        from install import Progress
    finally:
        sys.path.pop(0)
    out = io.StringIO()
    progress = Progress(3, out)
    for line in ("Collecting numpy==2 (from x)", "  Downloading numpy-2-cp311.whl (16.9 MB)", "noise"):
        progress.read(line)
    progress.show()
    progress.read("Installing collected packages: numpy")
    progress.show()
    assert re.sub(r"\d+ s", "N s", out.getvalue()).splitlines() == [
        "  1 of 3 packages, N s: numpy (16.9 MB)",
        "  3 of 3 packages, N s: all downloaded; unpacking",
    ]
