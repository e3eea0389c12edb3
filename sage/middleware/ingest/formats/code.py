"""Source code: a section for each definition, under its name, with the comment above it.

Definitions are told by how they are written, not by a parser of each language: code that does not compile, of any age,
is read as well, and what is taken for none stays with the text before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from sage.middleware.ingest.document import HeadingPath, ParsedDocument, TextSection

LANGUAGES = {
    **dict.fromkeys((".py", ".pyi", ".pyw"), "python"),
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), "javascript"),
    **dict.fromkeys((".ts", ".mts", ".cts", ".tsx"), "typescript"),
    **dict.fromkeys((".c", ".h"), "c"),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"), "c++"),
    **dict.fromkeys((".kt", ".kts"), "kotlin"),
    **dict.fromkeys((".sh", ".bash", ".zsh"), "shell"),
    **{".go": "go", ".rs": "rust", ".java": "java", ".cs": "c#", ".rb": "ruby", ".php": "php", ".swift": "swift"},
    **{".scala": "scala", ".lua": "lua", ".pl": "perl", ".r": "r", ".jl": "julia", ".sql": "sql", ".dart": "dart"},
}
"""The languages by the endings of files."""
_WORDS = (
    *("export", "default", "declare", "public", "private", "protected", "internal", "static", "final", "abstract"),
    *(
        "sealed",
        "partial",
        "async",
        "unsafe",
        "extern",
        "inline",
        "open",
        "override",
        "data",
        "virtual",
        "const",
        "pub",
    ),
)
_NAMED = re.compile(
    rf"(?P<indent>[ \t]*)(?:(?:{'|'.join(_WORDS)})(?:\([a-z]+\))? +)*"
    r"(?P<kind>class|interface|struct|enum|trait|impl|record|object|module|namespace|protocol|def|fn|fun|func|function|sub)"
    r"(?:\*| )\s*(?:\([^)]*\)\s*)?(?:<[^>]*>\s*)?(?P<name>[A-Za-z_$][\w$]*(?:(?:::|\.)[\w$]+)*)"
)
_ASSIGNED = re.compile(
    r"(?P<indent>)(?:export +)?(?:default +)?(?:const|let|var) +(?P<name>[A-Za-z_$][\w$]*) *(?::[^=]+)?= *"
    r"(?:async +)?(?:function\b|\([^)]*\) *(?::[^=]+)?=>|[A-Za-z_$][\w$]* *=>)"
)
_SIGNATURE = re.compile(r"(?P<indent>)[A-Za-z_][\w:<>,*&\s]*[\s*&](?P<name>[A-Za-z_][\w:~]*)\s*\([^;]*$")
_HOLDS = frozenset(
    {"class", "interface", "struct", "enum", "trait", "impl", "object", "module", "namespace", "protocol"}
)
_LONGEST_LINE = 400
"""Characters of a line that may begin a definition: longer ones are data, or were written by a program."""
_ABOVE = ("#", "//", "/*", "*", "@", "--", '"""', "[")
_NO_NAMES = frozenset({"if", "for", "while", "switch", "return", "else", "catch", "new", "in", "of"})


def language_of(path: str) -> str | None:
    """Such as ``python``; ``None`` means that the ending tells none."""
    return LANGUAGES.get(os.path.splitext(path)[1].lower())


def parse_code(text: str, language: str | None) -> ParsedDocument:
    """``language`` becomes metadata."""
    lines = text.replace("\r\n", "\n").split("\n")
    starts = list(_starts(lines, language))
    sections: list[TextSection] = []
    for index, (begin, heading) in enumerate(starts):
        end = starts[index + 1][0] if index + 1 < len(starts) else len(lines)
        body = "\n".join(lines[begin:end]).strip("\n")
        if body.strip():
            sections.append(TextSection(heading, body))
    return ParsedDocument(sections, metadata={"language": language} if language else {})


def _starts(lines: list[str], language: str | None) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The line at which each section begins, and its heading."""
    yield 0, ()
    headings, last, holder = HeadingPath(), 0, False
    for number, line in enumerate(lines):
        match = _definition(line, language)
        if match is None:
            continue
        kind = match.groupdict().get("kind")
        inner = bool(match["indent"])
        if inner and not (holder and len(match["indent"].expandtabs(4)) <= 4):
            continue
        holder = holder if inner else kind in _HOLDS
        begin = number
        while begin > last and lines[begin - 1].strip().startswith(_ABOVE):
            begin -= 1
        headings.enter(2 if inner else 1, match["name"])
        last = number + 1
        yield begin, headings.path()


def _definition(line: str, language: str | None) -> re.Match[str] | None:
    if len(line) > _LONGEST_LINE:
        return None
    match = _NAMED.match(line) or _ASSIGNED.match(line)
    if match is None and language in ("c", "c++"):
        match = _SIGNATURE.match(line)
    return match if match is not None and match["name"] not in _NO_NAMES else None
