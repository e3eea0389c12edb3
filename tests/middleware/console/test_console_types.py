"""The console's modules as TypeScript sees them, and its libraries beside the packages they come from; where npm is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from node_packages import CONSOLE as PACKAGES
from node_packages import needs_node, node_folder
from project import ROOT

pytestmark = [pytest.mark.slow, needs_node]

CONSOLE = ROOT / "sage/middleware/console"
TYPES = PACKAGES.parent
OWN = ("main.js", "core", "components", "pages")


def complaints(folder: Path, console: Path = CONSOLE) -> str:
    """What TypeScript finds in ``console``. Its vendored libraries are seen through their types."""
    for name in OWN:
        (folder / name).symlink_to(console / name)
    (folder / "vendor").symlink_to(TYPES / "vendor")
    (folder / "node_modules").symlink_to(node_folder(PACKAGES) / "node_modules")
    (folder / "tsconfig.json").write_bytes((TYPES / "tsconfig.json").read_bytes())
    command = ["node_modules/.bin/tsc", "--project", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) == (done.stdout == ""), done.stderr
    return done.stdout


def test_typescript_finds_nothing(tmp_path: Path) -> None:
    assert complaints(tmp_path) == ""


def test_typescript_would_find_a_wrong_call(tmp_path: Path) -> None:
    wrong = tmp_path / "console"
    for name in OWN[1:]:
        (wrong / name).mkdir(parents=True)
    (wrong / "main.js").write_text(
        'import {useState} from "./vendor/preact-htm.js"\nconst [count] = useState(1)\ncount.trim()\n'
    )
    (checked := tmp_path / "checked").mkdir()
    assert complaints(checked, wrong).startswith("main.js(3,7): error TS2339: Property 'trim' does not exist")


def test_libraries_are_the_files_of_their_packages() -> None:
    stated = json.loads(PACKAGES.read_bytes())["dependencies"]
    for name, row in json.loads((CONSOLE / "vendor/vendor.json").read_bytes()).items():
        assert stated[row["package"]] == row["version"], name
        original = node_folder(PACKAGES) / "node_modules" / row["package"] / row["file"]
        assert (CONSOLE / "vendor" / name).read_bytes() == original.read_bytes(), name
