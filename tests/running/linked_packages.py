"""What a distribution asks for, put into another environment as links to the packages of this one."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def link_requirements(site_packages: Path, requirements: Iterable[str]) -> None:
    """Links into ``site_packages`` what is needed for ``requirements`` and is not there, byte code too.

    Raises :class:`importlib.metadata.PackageNotFoundError` for what this environment has not, and
    :class:`AssertionError` where it has another version than is asked for.
    """
    there = {canonicalize_name(found.name): found for found in metadata.distributions(path=[str(site_packages)])}
    todo, done = [Requirement(line) for line in requirements], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found = there.get(name) or metadata.distribution(name)
        assert requirement.specifier.contains(found.version, prereleases=True), (str(requirement), found.version)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                lines = [Requirement(line) for line in found.requires or ()]
                todo += [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]
    for name in {name for name, _ in done} - there.keys():
        _link(metadata.distribution(name), site_packages)


def _link(distribution: metadata.Distribution, site_packages: Path) -> None:
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # a command, or byte code, which belongs to its source
        source, target = Path(str(distribution.locate_file(file))), site_packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        if source.suffix == ".py" and (code := Path(cache_from_source(str(source)))).exists():
            place = Path(cache_from_source(str(target)))
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(code)
