"""Grammars that an answer must follow: servers build them before the first token, while all other callers wait.

So patterns, schemas and grammars have bounds, far above what is ordinary: the time that a server needs grows with the
size of a pattern whose counted repetitions are written out, and ``(a{1,1000}){1,1000}`` is a million.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.providers.regex_size import written_out

FIELDS = frozenset(
    {"response_format", "format", "json_schema", "structured_outputs", "grammar", "regex", "ebnf"}
    | {"guided_json", "guided_regex", "guided_grammar"}
)
MAX_WRITTEN_OUT = 100_000
"""Pieces of one pattern."""
MAX_PATTERN = 8 * 1024
"""Characters of one pattern."""
MAX_COUNTED = 16 * 1024
"""Characters of all patterns with counted repetitions: these are read."""
MAX_GRAMMAR = 128 * 1024
"""Characters."""
MAX_VALUES = 30_000
"""Keys and items of all schemas."""
MAX_LEAST = 100_000
"""Items or characters that an answer may be made to have at least."""
_PATTERNS = frozenset({"pattern", "regex", "guided_regex"})
_GRAMMARS = frozenset({"grammar", "guided_grammar", "ebnf"})
_LEAST = frozenset({"minItems", "minLength", "minProperties", "minContains"})


def check_grammars(body: Mapping[str, Any]) -> None:
    """Raises :class:`InvalidRequest`, naming the field, for what would keep a server busy in a field of ``body``."""
    check = _Check()
    for field in FIELDS.intersection(body):
        check.field(field, body[field])


class _Check:
    """Of all fields of one request."""

    def __init__(self) -> None:
        self._values = MAX_VALUES
        self._counted = MAX_COUNTED

    def field(self, field: str, root: Any) -> None:
        if field == "guided_json" and isinstance(root, str):
            root = _parsed(root)
        waiting: list[tuple[str, Any]] = [(field, root)]
        while waiting:
            key, value = waiting.pop()
            if isinstance(value, str):
                self._text(value, key, field)
            elif isinstance(value, dict | list):
                self._values -= len(value)
                if self._values < 0:
                    raise InvalidRequest(f"the schema in '{field}' may hold {MAX_VALUES} values", param=field)
                waiting += self._inner(key, value, field)
            elif key in _LEAST and isinstance(value, int | float) and value > MAX_LEAST:
                raise InvalidRequest(f"the '{key}' in '{field}' must be {MAX_LEAST} at most", param=field)

    def _inner(self, key: str, value: dict[str, Any] | list[Any], field: str) -> list[tuple[str, Any]]:
        if isinstance(value, list):
            return [("", item) for item in value]
        if key == "patternProperties":
            for pattern in value:
                self._pattern(pattern, field)
        if value.get("type") == "regex" and isinstance(text := value.get("value"), str):
            self._pattern(text, field)
        return list(value.items())

    def _text(self, text: str, key: str, field: str) -> None:
        if key in _PATTERNS:
            self._pattern(text, field)
        elif key in _GRAMMARS and len(text) > MAX_GRAMMAR:
            raise InvalidRequest(f"the grammar in '{field}' may have {MAX_GRAMMAR} characters", param=field)

    def _pattern(self, pattern: str, field: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise InvalidRequest(f"a pattern in '{field}' may have {MAX_PATTERN} characters", param=field)
        if "{" not in pattern:
            return
        self._counted -= len(pattern)
        if self._counted < 0:
            raise InvalidRequest(
                f"the patterns with counted repetitions in '{field}' may have {MAX_COUNTED} characters together",
                param=field,
            )
        if written_out(pattern, MAX_WRITTEN_OUT) > MAX_WRITTEN_OUT:
            raise InvalidRequest(
                f"the pattern {pattern[:50]!r} in '{field}' has too many repetitions within repetitions: written out "
                f"it may have {MAX_WRITTEN_OUT} pieces",
                param=field,
            )


def _parsed(text: str) -> Any:
    """Of JSON as text; what cannot be read is left to the upstream."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
