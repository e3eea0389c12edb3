"""The files that the image is built from: the Dockerfile, what it is given, and the stand-in for its base."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from project import ROOT


def test_what_the_dockerfile_copies_is_there_and_is_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert {"config.yaml", "sage", "pyproject.toml"} <= copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name.partition('/')[0]}" in ignore


@pytest.mark.slow
def test_everybody_may_enter_the_stand_ins_root(tmp_path: Path) -> None:
    """Its `/` is a directory that `mktemp` makes for its owner alone, and the image's user is another one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "debootstrap").write_text('#!/bin/sh\nmkdir -p "$4/usr/lib/python3.11"\n')
    (programs / "podman").write_text(f"#!/bin/sh\ntar -tvf - > {tmp_path / 'listing'}\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    path = f"{programs}:{Path(shutil.which('tar') or '/bin/tar').parent}:/usr/bin:/bin"
    script = str(ROOT / "tests" / "image" / "stand_in.sh")
    done = subprocess.run(["sh", script, "x:y"], env={"PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "listing").read_text().startswith("drwxr-xr-x ")
