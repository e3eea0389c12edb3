"""The description of an embedder that runs in this process, without loading its model or its packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage.middleware.retrieval.embedding.protocols import Embedder


@dataclass(frozen=True)
class EmbedderKind:
    """One row of :data:`sage.middleware.retrieval.embedding.builtin.KINDS`."""

    name: str
    """What a collection's options call it (``local``)."""
    full_name: str
    """The name by which its vectors are known (``local/minilm-l6-v2-int8x8``): those of one full name are comparable.
    Collections can be made with this name, too."""
    model: str
    """What the documentation calls it."""
    dimension: int
    languages: frozenset[str] | None
    """ISO 639-1 codes of the languages it was trained on; ``None`` means about a hundred."""
    extra: str
    """The extra of this package that installs it."""
    packages: tuple[str, ...]
    """The import names of what the extra installs; without one of them it cannot run."""
    cosine_range: tuple[float, float]
    """The cosines of texts that have nothing in common (nine of ten have a lower one), and of texts that say the
    same."""
    load: Callable[[EmbedderKind], Embedder]
    """Makes it; the model itself is read with the first text. Raises :class:`sage.errors.MissingExtra`."""

    def knows(self, language: str | None) -> bool:
        """Whether it was trained on texts in ``language``, an ISO 639-1 code; ``None`` means texts without letters."""
        return language is None or self.languages is None or language in self.languages

    @property
    def is_installed(self) -> bool:
        """Looks for the packages without importing any."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)
