"""Citations of files in a model's text: marks such as ``【F3】`` become annotations, and are not shown.

Models copy a short mark in such brackets more faithfully than a number in square ones, which also stands in code and
lists. What looks like a mark, and is none that the model was given, stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Annotation = dict[str, Any]
"""``{"type": "file_citation", "index", "file_id", "filename"}``; ``index`` is where it stands in the shown text, in
characters."""

OPEN, CLOSE = "【", "】"
_MARKS = re.compile(r" ?【\s*(F\d{1,4}(?:\s*[,;、，]\s*F\d{1,4})*)\s*】")
_BEGUN = re.compile(r" ?(?:【[^】]{0,60})?\Z")
"""What may be the beginning of a mark, at the end of a text."""


class CitationStream:
    """Takes the marks out of a text that comes in pieces. ``results`` may grow while it comes: those of all searches
    so far, each with its ``mark``."""

    def __init__(self, results: Sequence[Mapping[str, Any]]) -> None:
        self._results = results
        self._held = ""
        self._shown = 0

    def feed(self, text: str) -> tuple[str, list[Annotation]]:
        """What of the text so far is to be shown next, and what it cites. The beginning of a mark is held back."""
        held = self._held + text
        begun = _BEGUN.search(held)
        place = begun.start() if begun is not None else len(held)
        ready, self._held = held[:place], held[place:]
        return self._take(ready)

    def end(self) -> tuple[str, list[Annotation]]:
        """The rest."""
        held, self._held = self._held, ""
        return self._take(held)

    def _take(self, text: str) -> tuple[str, list[Annotation]]:
        pieces: list[str] = []
        annotations: list[Annotation] = []
        place = 0
        for match in _MARKS.finditer(text):
            cited = [self._of(mark) for mark in re.findall(r"F\d+", match[1])]
            if not all(cited):
                continue
            self._show(text[place : match.start()], pieces)
            place = match.end()
            annotations += [_annotation(self._shown, each) for each in _once(cited)]
        self._show(text[place:], pieces)
        return "".join(pieces), annotations

    def _show(self, text: str, pieces: list[str]) -> None:
        pieces.append(text)
        self._shown += len(text)

    def _of(self, mark: str) -> Mapping[str, Any] | None:
        return next((result for result in self._results if result.get("mark") == mark), None)


def cite(text: str, results: Sequence[Mapping[str, Any]]) -> tuple[str, list[Annotation]]:
    """The whole ``text`` without its marks, and what it cites."""
    stream = CitationStream(results)
    shown, annotations = stream.feed(text)
    rest, more = stream.end()
    return shown + rest, annotations + more


def _once(cited: Sequence[Mapping[str, Any] | None]) -> list[Mapping[str, Any]]:
    """Each file once."""
    return list({str(each["file_id"]): each for each in cited if each is not None}.values())


def _annotation(index: int, result: Mapping[str, Any]) -> Annotation:
    return {
        "type": "file_citation",
        "index": index,
        "file_id": result["file_id"],
        "filename": result["filename"],
    }
