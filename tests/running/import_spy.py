"""Which packages a `sage` process loads, each with the module that asked for it first."""

from __future__ import annotations

import sys
from pathlib import Path

_SPY = """\
import atexit, sys

class Spy:
    def __init__(self):
        self.asked = {}

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in self.asked and package not in sys.stdlib_module_names and package != "sage":
            frame = sys._getframe(1)
            while "importlib" in frame.f_globals.get("__name__", ""):
                frame = frame.f_back
            self.asked[package] = frame.f_globals.get("__name__")

    def report(self, path):
        with open(path, "w") as file:
            for package, asker in self.asked.items():
                if package in sys.modules:
                    print(package, asker, file=file)

spy = Spy()
atexit.register(spy.report, sys.argv.pop(1))
sys.meta_path.insert(0, spy)
from sage.middleware.cli.start import main
sys.argv[0] = "sage"
main()
"""


def spied(report: Path) -> list[str]:
    """A command for ``sage`` that writes into ``report``, as it ends, which packages of others it has loaded."""
    return [sys.executable, "-c", _SPY, str(report)]


def loaded(report: Path) -> dict[str, str]:
    """Package → the module that imported it first."""
    return dict(line.split() for line in report.read_text("utf-8").splitlines())
