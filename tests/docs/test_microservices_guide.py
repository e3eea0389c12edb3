"""`docs/MICROSERVICES_GUIDE.md`: every Python block runs as it stands, the first one with a batch in place of Kafka."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from loaded_process import loaded_python
from sage_process import ROOT, environment

TEXT = (ROOT / "docs" / "MICROSERVICES_GUIDE.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
BATCH = """env.from_batch([{"content": "Hello", "vector": [0.1] * 384}])"""


def test_the_guide_has_blocks() -> None:
    assert len(BLOCKS) == 8


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_python_block_of_the_guide_runs(number: int, tmp_path: Path) -> None:
    code = BLOCKS[number].replace("env.from_kafka_source(...)", BATCH)
    env = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*loaded_python(env), "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
