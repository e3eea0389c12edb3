"""The plan of the house, read from the syntax trees: arrows go down, no circles, one class a name, small rooms.

Every import counts: at the top, behind ``TYPE_CHECKING``, and late ones inside functions.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from project import ROOT

FLOORS = [
    {
        *(
            "sage.acting_for",
            "sage.errors",
            "sage.fair_queue",
            "sage.processors",
            "sage.strict_json",
            "sage.surrogates",
        ),
        "sage.thread_pool",
    },
    {"sage.addresses", "sage.forks", "sage.private_files"},
    {"sage.pinned_resolver", "sage.sqlite"},
    {"sage.middleware.hub", "sage.middleware.settings"},
    {"sage.kernels", "sage.middleware.database", "sage.middleware.webhooks"},
    {"sage.middleware.audit"},
    {
        *("sage.middleware.providers", "sage.middleware.retrieval", "sage.middleware.auth", "sage.middleware.queue"),
        *("sage.middleware.budgets", "sage.middleware.ingest", "sage.middleware.limits", "sage.middleware.usage"),
        *("sage.api", "sage.middleware.responses", "sage.middleware.vector_stores"),
    },
    {"sage.middleware.engines", "sage.middleware.evaluation", "sage.service", "sage.middleware.client"},
    {"sage.middleware.dispatch"},
    {"sage.middleware.registry"},
    {"sage.middleware.gateway"},
    {"sage.middleware.mcp"},
    {"sage.middleware.routers"},
    {"sage.middleware.app"},
    {"sage.middleware.worker"},
    {"sage.middleware.cli", "sage.middleware.llm"},
]
"""The rooms, the lowest floor first. A room imports itself and rooms of floors below it, never a sibling."""

APART = [
    ("sage.middleware.auth", "sage.kernels"),
    ("sage.middleware.retrieval", "sage.kernels"),
    ("sage.middleware.providers", "sage.kernels"),
    ("sage.middleware.ingest", "sage.kernels"),
    ("sage.kernels", "sage.middleware"),
    ("sage.api", "sage.middleware"),
    ("sage.service", "sage.middleware.auth"),
    ("sage.service", "sage.middleware.providers"),
]
"""Rooms that stay apart though the floors would let the first import the second: libraries of their own."""

LIBRARIES = (
    *("sage.middleware.retrieval", "sage.middleware.providers", "sage.middleware.ingest"),
    *("sage.service", "sage.kernels", "sage.api"),
)
WEB = ("fastapi", "starlette", "uvicorn")

_NUMPY = "a gateway that nobody searches starts without numpy and faiss"
_CRYPTOGRAPHY = "a gateway whose callers have API keys starts without jose and cryptography"
_COMMANDS = "`sage`, its help and every other command start without it"
_AIOHTTP = "a gateway without a proxy starts without aiohttp"
_WEBHOOKS = "a gateway that calls no webhooks starts without aiohttp"
LATE = {
    "sage.api.local_environment": "Ray is an extra",
    "sage.middleware.app.main": _NUMPY,
    "sage.middleware.auth.accounts": _CRYPTOGRAPHY,
    "sage.middleware.database.database": "psycopg is an extra",
    "sage.middleware.database.installation": "the fronts of a gateway on SQLite start without SQLAlchemy",
    "sage.middleware.budgets.notices": _WEBHOOKS,
    "sage.middleware.cli.accounts.budgets": _COMMANDS,
    "sage.middleware.cli.accounts.keys": _COMMANDS,
    "sage.middleware.cli.accounts.member_budgets": _COMMANDS,
    "sage.middleware.cli.accounts.opening": _COMMANDS,
    "sage.middleware.cli.accounts.teams": _COMMANDS,
    "sage.middleware.cli.accounts.users": _COMMANDS,
    "sage.middleware.cli.audit": _COMMANDS,
    "sage.middleware.client.connection": _COMMANDS,
    "sage.middleware.cli.config": _COMMANDS,
    "sage.middleware.cli.databases": _COMMANDS,
    "sage.middleware.cli.mcp": _COMMANDS,
    "sage.middleware.cli.flower": _COMMANDS,
    "sage.middleware.cli.import_command": _COMMANDS,
    "sage.middleware.cli.ingest_command": _COMMANDS,
    "sage.middleware.cli.main": _COMMANDS,
    "sage.middleware.cli.serve": _COMMANDS,
    "sage.middleware.cli.start": "the server starts without the other commands",
    "sage.middleware.cli.model_files": _COMMANDS,
    "sage.middleware.app.workers.front_collections": _NUMPY,
    "sage.middleware.app.server": "one process alone starts without what several share",
    "sage.middleware.cli.worker": _COMMANDS,
    "sage.middleware.gateway.collections.collections": _NUMPY,
    "sage.middleware.gateway.builtin_embedders": _NUMPY,
    "sage.middleware.gateway.collections.model_access": _NUMPY,
    "sage.middleware.gateway.collections.requests": _NUMPY,
    "sage.middleware.gateway.jobs.webhooks.webhooks": _WEBHOOKS,
    "sage.middleware.gateway.vector_stores.access": "the fronts of a gateway on SQLite start without SQLAlchemy",
    "sage.middleware.gateway.vector_stores.search": _NUMPY,
    "sage.middleware.gateway.responses.kept": "a gateway without kept responses, and a front, start without SQLAlchemy",
    "sage.middleware.gateway.services.plans": "a gateway that uses no service starts without the runtime and numpy",
    "sage.middleware.limits.limiter": "a gateway without Redis starts without its client",
    "sage.middleware.llm.service": _NUMPY,
    "sage.middleware.routers.health": "a gateway starts without prometheus_client, which only /metrics needs",
    "sage.middleware.settings.reading": "a gateway without a configuration file starts without a reader of YAML",
    "sage.middleware.providers.clients": _AIOHTTP,
    "sage.middleware.providers.http.transport": _AIOHTTP,
    "sage.middleware.retrieval": _NUMPY,
    "sage.middleware.routers.flower.browser_session": _CRYPTOGRAPHY,
    "sage.middleware.retrieval.embedding.builtin": "its names are read without loading a model's packages",
    "sage.service.vdb.vdb_service": "the gateway shows the class and its methods without numpy",
}
"""The modules with late imports of our own modules, each with the reason why those are not at the top of the file."""

MOST_MODULES = 24


@dataclass(frozen=True)
class Import:
    """``module`` imports ``target``; ``late``: inside a function."""

    module: str
    target: str
    late: bool


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "sage").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree_of(source: str) -> ast.Module:
    return ast.parse(source)


@pytest.fixture(scope="module", autouse=True)
def trees_are_let_go() -> Iterator[None]:
    """Millions of objects, through which every collection of garbage in the tests that follow would have to go."""
    yield
    tree_of.cache_clear()


def statements_of(node: ast.AST) -> Iterator[ast.AST]:
    """The statements right below ``node``, and what holds further ones: not its expressions, which are most of it."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, name, None)
        if isinstance(below, list):
            yield from below


def imports_of(module: str, source: str, known: Collection[str]) -> list[Import]:
    """Every import in ``source``; ``from package import module`` is one of that module."""
    found: list[Import] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the room they come from"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append(Import(module, full if full in known else node.module or "", late))
        for child in statements_of(node):
            visit(child, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(tree_of(source), False)
    return found


def classes_in(node: ast.AST) -> Iterator[str]:
    """The names of all classes below ``node``, those inside functions too."""
    for child in statements_of(node):
        if isinstance(child, ast.ClassDef):
            yield child.name
        yield from classes_in(child)


def room_of(module: str) -> str | None:
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def wrong_arrows(imports: Iterable[Import]) -> list[str]:
    wrong = []
    for one in imports:
        room, other = room_of(one.module), room_of(one.target)
        if room is None:
            wrong.append(f"{one.module} is in no room")
        elif room in LIBRARIES and one.target.split(".")[0] in WEB:
            wrong.append(f"{one.module} is in a library room and imports {one.target}")
        elif not one.target.startswith("sage.") or other == room:
            continue
        elif other is None:
            wrong.append(f"{one.module} imports {one.target}, which is in no room")
        elif floor_of(other) > floor_of(room):
            wrong.append(f"{one.module} imports {one.target} from a floor above")
        elif floor_of(other) == floor_of(room):
            wrong.append(f"{one.module} imports its sibling {one.target}")
        elif any(_within(one.module, a) and _within(one.target, b) for a, b in APART):
            wrong.append(f"{one.module} imports {one.target}: {room} is a library of its own")
    return wrong


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def circles(imports: Iterable[Import]) -> list[list[str]]:
    """The groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for one in imports:
        if one.module != one.target:
            arrows[one.module].add(one.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(arrows[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(arrows):
        if module not in index:
            visit(module)
    return found


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    known = modules()
    assert len(known) > 100
    return [one for module, file in known.items() for one in imports_of(module, file.read_text(), known)]


@pytest.mark.slow
def test_imports_go_down_only(imports: list[Import]) -> None:
    assert wrong_arrows(imports) == []


def test_no_modules_import_each_other_in_a_circle(imports: list[Import]) -> None:
    assert circles(imports) == []


def test_late_imports_of_our_own_modules_have_a_reason(imports: list[Import]) -> None:
    late = {(one.module, one.target) for one in imports if one.late and one.target.startswith("sage.")}
    excused = {(module, target) for module, target in late if module in LATE}
    assert sorted(late - excused) == []
    assert set(LATE) <= {module for module, _ in late}, "a reason for a late import that is no more"


def test_one_class_name_is_one_class() -> None:
    names = Counter(name for file in modules().values() for name in classes_in(tree_of(file.read_text())))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_folders_stay_small() -> None:
    folders = Counter(str(file.parent.relative_to(ROOT)) for file in modules().values())
    assert {folder: count for folder, count in folders.items() if count > MOST_MODULES} == {}


def test_sage_is_a_namespace_package() -> None:
    assert not (ROOT / "sage" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sage.middleware.providers.openai", "from sage.middleware.auth.principal import Principal"),
        ("sage.middleware.auth.tokens", "import sage.middleware.gateway.gateway"),
        ("sage.errors", "from sage.middleware.auth import principal"),
        ("sage.middleware.providers.transport", "import fastapi"),
        ("sage.middleware.utils", "import os"),
        ("sage.kernels.runtime.forks", "from sage.middleware.settings.settings import Settings"),
        ("sage.middleware.engines.fleet", "def f():\n    from sage.middleware.dispatch.dispatch import Dispatch"),
        ("sage.api.stream", "if TYPE_CHECKING:\n    from sage.service.kv.kv_service import KVService"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert wrong_arrows(imports_of(module, source, ()))


def test_a_circle_is_seen_behind_type_checking_and_inside_functions() -> None:
    known = ("sage.a", "sage.b", "sage.c")
    sources = {
        "sage.a": "if TYPE_CHECKING:\n    from sage import b",
        "sage.b": "def f():\n    import sage.c",
        "sage.c": "from sage.a import A",
    }
    imports = [one for module, source in sources.items() for one in imports_of(module, source, known)]
    assert circles(imports) == [["sage.a", "sage.b", "sage.c"]]
    assert [one.late for one in imports] == [False, True, False]
