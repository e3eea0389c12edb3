"""The arrows of ARCHITECTURE.md, read from the syntax trees: imports go down only, and siblings do not meet."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from project import ROOT

FLOORS = [
    {
        "sage.errors",
        "sage.sqlite",
        "sage.middleware.settings.settings",
        "sage.middleware.settings.kinds",
        "sage.middleware.settings.reading",
        "sage.middleware.settings.quantities",
        "sage.middleware.settings.providers",
        "sage.middleware.settings.retrieval",
        "sage.middleware.settings.services",
    },
    {"sage.kernels"},
    {"sage.api"},
    {
        "sage.middleware.auth",
        "sage.middleware.providers",
        "sage.middleware.retrieval",
        "sage.middleware.queue",
        "sage.service",
    },
    {"sage.middleware.engines"},
    {"sage.middleware.dispatch"},
    {"sage.middleware.registry"},
    {"sage.middleware.gateway"},
    {"sage.middleware.routers"},
    {"sage.middleware.app"},
    {"sage.middleware.cli", "sage.middleware.llm"},
]
# On the one floor with siblings, the only pair that may meet.
ALLOWED_SIBLINGS = {("sage.service", "sage.middleware.retrieval")}
LIBRARIES = ("sage.middleware.retrieval", "sage.service", "sage.kernels", "sage.api", "sage.middleware.providers")
WEB = ("fastapi", "starlette", "uvicorn")


def room_of(module: str) -> str | None:
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            found |= {node.module or ""}
    return found


def faults(module: str, source: str) -> list[str]:
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room"]
    found = []
    for target in sorted(imports_of(source)):
        if room in LIBRARIES and target.split(".")[0] in WEB:
            found.append(f"{module} is a library room and imports {target}")
        if not target.startswith("sage."):
            continue
        other = room_of(target)
        if other is None:
            found.append(f"{module} imports {target}, which is in no room")
        elif other != room and floor_of(room) > 0:
            if floor_of(other) > floor_of(room):
                found.append(f"{module} imports {target} from a floor above")
            elif floor_of(other) == floor_of(room) and (room, other) not in ALLOWED_SIBLINGS:
                found.append(f"{module} imports its sibling {target}")
        elif other != room and floor_of(other) > 0:
            found.append(f"{module} is the ground and imports {target}")
    return found


def modules() -> list[tuple[str, Path]]:
    files = sorted((ROOT / "sage").rglob("*.py"))
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file) for file in files]


def test_imports_go_down_only() -> None:
    assert len(modules()) > 30
    found = [fault for module, file in modules() for fault in faults(module, file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sage.middleware.providers.openai", "from sage.middleware.auth.principal import Principal"),
        ("sage.middleware.auth.tokens", "import sage.middleware.gateway.gateway"),
        ("sage.errors", "from sage.middleware.auth import principal"),
        ("sage.middleware.providers.transport", "import fastapi"),
        ("sage.middleware.utils", "import os"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert faults(module, source)


def test_sage_is_a_namespace_package() -> None:
    assert not (ROOT / "sage" / "__init__.py").exists()
