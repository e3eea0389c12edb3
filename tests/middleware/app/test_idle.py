"""What a gateway costs before anyone asks it anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sage_process import environment, serving

from benchmarks.processes import family

pytestmark = pytest.mark.slow

MOST = 100
"""MiB that the gateway's family may hold."""

HEAVY = {
    "aiohttp",
    "alembic",
    "celery",
    "cryptography",
    "jose",
    "kombu",
    "mako",
    "numpy",
    "openai",
    "pygments",
    "redis",
    "rich",
}

LOADED = """\
import sys, tempfile
from pathlib import Path
import sage.middleware.cli.main
from sage.middleware.app.server import create_app
from sage.middleware.settings.settings import Settings
with tempfile.TemporaryDirectory() as directory:
    app = create_app(Settings(data_dir=Path(directory) / "data"))
    app.app.state.accounts.close()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("arguments", [(), ("--no-auth",)], ids=["accounts", "no accounts"])
def test_it_holds_a_bounded_memory(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with serving(["--port", "0", *arguments], environment(tmp_path / "data"), tmp_path) as gateway:
        pids = family(gateway.process.pid)
        resident = sum(resident_kib(pid) for pid in pids) / 1024
    assert len(pids) == 1  # the worker of jobs waits for the first
    assert resident < MOST


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_what_only_some_need_is_not_loaded() -> None:
    """Neither by the first start with accounts, which makes them, nor by the command line."""
    ran = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(ran.stdout.split())
    assert {"fastapi", "sqlalchemy", "uvicorn"} < loaded
    assert loaded & HEAVY == set()
