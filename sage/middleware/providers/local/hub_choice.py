"""Which file of a hub's repository is meant: ``hf:ORG/REPO``, ``hf:ORG/REPO:Q8_0`` or ``hf:ORG/REPO:FILE.gguf``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sage.errors import InvalidRequest, NotFound
from sage.middleware.hub.sources import HubSource, RepoFile, is_safe

_NAME = re.compile(r"[^\W_][\w.-]{0,127}")
_LONGEST = 512
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANTISATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))(?=$|[-._/])", re.IGNORECASE
)
_PREFERRED = (
    *("Q4_K_M", "UD-Q4_K_XL", "Q4_K_L", "Q4_K_S", "Q4_0", "Q4", "Q4_1", "IQ4_XS", "IQ4_NL", "MXFP4", "MXFP4_MOE"),
    *("Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "F16", "FP16", "BF16"),
)
"""Quantisations, the best compromise of size and quality first."""
_LISTED = 20
"""Files that a message names at most."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The file to fetch, in its parts if it is split, and the names of those that could have been chosen too."""

    files: tuple[RepoFile, ...]
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path of the first part, which stands for the whole model."""
        return self.files[0].path


def check_file_model(name: str) -> None:
    """Raises :class:`InvalidRequest` for a name that no model of a file may have. It has no slash, since what is before
    one names a provider."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the model's name '{name[:_LONGEST]}' is not made of letters, digits, '.', '_' and '-'; choose another",
            param="name",
        )


def choose(source: HubSource, files: Sequence[RepoFile]) -> Choice:
    """The file that ``source`` means, or the preferred one: ``Q4_K_M`` if there is one.

    Raises :class:`NotFound` if there is none, and :class:`InvalidRequest` if several fit as well.
    """
    variants = _variants(files)
    if not variants:
        raise NotFound(
            f"{source.hub}:{source.repo} has no GGUF file; look for a repository whose name ends with -GGUF",
            param="name",
            code="no_gguf",
        )
    fitting = _fitting(source, variants)
    if len(fitting) > 1:
        raise InvalidRequest(
            f"several files of {source.hub}:{source.repo} fit; add one after a colon: {_list(fitting)}", param="name"
        )
    [name] = fitting
    return Choice(variants[name], tuple(other for other in variants if other != name))


def default_name(source: HubSource, choice: Choice) -> str:
    """A public name: that of the repository, or of the file if one was asked for."""
    if source.file is None:
        stem = source.repo.partition("/")[2]
    else:
        split = _SPLIT.fullmatch(choice.name)
        stem = PurePosixPath(split["stem"] if split else choice.name.removesuffix(".gguf")).name
    return re.sub(r"[-._]gguf$", "", re.sub(r"[^a-z0-9._-]+", "-", stem.lower())).strip("-.") or "model"


def quantisation(path: str) -> str | None:
    """Such as ``Q4_K_M``, from the file's name or its directory's; ``None`` means that neither tells it."""
    stem = path[:-5] if path.lower().endswith(".gguf") else path
    split = _SPLIT.fullmatch(path)
    found = _QUANTISATION.findall(split["stem"] if split else stem)
    return found[-1].upper() if found else None


def _variants(files: Sequence[RepoFile]) -> dict[str, tuple[RepoFile, ...]]:
    """The models in a repository, by the path of their first file. Incomplete ones are left out, and parts of others:
    projectors of pictures and importance matrices."""
    variants: dict[str, tuple[RepoFile, ...]] = {}
    parts: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in files:
        name = PurePosixPath(file.path).name.lower()
        if not name.endswith(".gguf") or not is_safe(file.path) or "mmproj" in name or "imatrix" in name:
            continue
        split = _SPLIT.fullmatch(file.path)
        if split is None:
            variants[file.path] = (file,)
        else:
            parts.setdefault((split["stem"], int(split["count"])), {})[int(split["number"])] = file
    for (_, count), numbered in parts.items():
        if sorted(numbered) == list(range(1, count + 1)):
            whole = tuple(numbered[number] for number in sorted(numbered))
            variants[whole[0].path] = whole
    return variants


def _fitting(source: HubSource, variants: dict[str, tuple[RepoFile, ...]]) -> list[str]:
    wanted = source.file
    if wanted is None:
        ranks = {name: _rank(name) for name in variants}
        return [name for name, rank in ranks.items() if rank == min(ranks.values())]
    by_path = [name for name in variants if wanted in (file.path for file in variants[name])]
    by_name = [name for name in variants if wanted == PurePosixPath(name).name]
    by_quantisation = [name for name in variants if quantisation(name) == wanted.upper()]
    fitting = by_path or by_name or by_quantisation
    if fitting:
        return fitting
    raise NotFound(
        f"{source.hub}:{source.repo} has no '{wanted}'; it has: {_list(sorted(variants))}", param="name", code="no_file"
    )


def _rank(name: str) -> int:
    kind = quantisation(name)
    return _PREFERRED.index(kind) if kind in _PREFERRED else len(_PREFERRED)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown}, …" if len(names) > _LISTED else shown
