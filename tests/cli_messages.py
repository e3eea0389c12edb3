"""The messages of the command line, read from the code, and the catalogues of their translations.

``python tests/cli_messages.py --write`` brings the catalogues in ``sage/middleware/cli/language`` up to date: it adds
what is new, without a translation, and removes what no longer stands in the code.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from project import ROOT

from sage.middleware.cli.language.catalogue import DIRECTORY, read_po
from sage.middleware.cli.language.framework import page_texts, texts, walk
from sage.middleware.cli.language.templates import JOINTS, parts_of

_CLI = "sage/middleware/cli"
# The rooms whose errors the command line shows as its own.
_ROOMS = (
    _CLI,
    "sage/addresses.py",
    "sage/middleware/settings",
    "sage/middleware/auth",
    "sage/middleware/database",
    "sage/middleware/client",
    "sage/middleware/ingest",
    "sage/middleware/app/gateway_server.py",
    "sage/middleware/app/server.py",
    "sage/middleware/app/workers/listening.py",
    "sage/middleware/app/config_check.py",
    "sage/middleware/registry",  # what a gateway answers most often, and the command line passes on
    "sage/middleware/dispatch/refusal.py",
    "sage/middleware/engines/memory_budget.py",
    "sage/middleware/gateway/collections/reembedding.py",
    "sage/middleware/gateway/flower_access.py",
    "sage/middleware/providers/local/catalog.py",
    "sage/middleware/providers/local/provider.py",
    "sage/middleware/providers/local/file_models.py",
    "sage/middleware/hub",
    "sage/middleware/providers/local/hub_choice.py",
    "sage/middleware/providers/local/hub_process.py",
    "sage/middleware/providers/local/hub_pull.py",
    "sage/middleware/retrieval/collections.py",
    "sage/middleware/retrieval/automatic_embedder.py",
    "sage/middleware/retrieval/query/unmet_signs.py",
)
_MARKS = ("_", "N_")
_OTHER_ERRORS = {
    "BadParameter",
    "UsageError",
    "ValueError",
    "_failed",
    "failed",
    "_invalid_line",
    "_skip",
    "Unreadable",
    "Finding",
    "_invalid_key",
    "_step",
    "PullProgress",
}
_SECOND_ARGUMENT = {"leave_out", "_fail"}
"""Functions whose second argument is a message."""
_RETURNING = {
    "_signs_warning",
    "_chosen_text", "_existing_names", "_fault", "_loaded", "_memory_warning", "_needs", "_what_is_full",
    "_why_not_wait", "_yaml_fault", "language_warning", "nearest", "unconfigured", "unselected", "what_to_set",
}  # fmt: skip
"""Functions that return a message, or a part of one that is a value in another."""
_VARIABLES = {"_WINS", "advice", "engine", "fault", "hint", "label", "message", "reason", "then", "warning"}
"""Variables that hold a message, or a part of one."""
_WELCOME = "welcome"
"""The function whose lines `sage serve` prints."""
# What Typer says without a catalogue, as templates.
_FRAMEWORK = (
    "Usage: ",
    "Show this message and exit.",
    "Install completion for the current shell.",
    "Show completion for the current shell, to copy it or customize the installation.",
    "No such option: {option}",
    "{message} (Possible options: {options})",
    "No such command '{name}'.",
    "No such command '{name}'. Did you mean '{other}'?",
    "Missing command.",
    "Missing argument {name}.",
    "Missing option {name}.",
    "Invalid value for {name}: {message}",
    "Invalid value: {message}",
    "Option {name} requires an argument.",
    "Option {name} does not take a value.",
    "Got unexpected extra argument ({names})",
    "Got unexpected extra arguments ({names})",
    "'{value}' is not a valid int.",
    "'{value}' is not a valid float.",
    "'{value}' is not one of {values}.",
    "{value} is not in the range {range}.",
)
# What the operating system and pydantic say within errors of ours.
_CAUSES = (
    "[Errno {number}] {reason}",
    "No such file or directory",
    "Permission denied",
    "Is a directory",
    "Not a directory",
    "File exists",
    "No space left on device",
    "Read-only file system",
    "Connection refused",
    "Name or service not known",
    "Input should be a valid integer",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid number",
    "Input should be a valid number, unable to parse string as a number",
    "Input should be a valid boolean",
    "Input should be a valid boolean, unable to interpret input",
    "Input should be a valid string",
    "Input should be a valid list",
    "Input should be greater than or equal to {least}",
    "Input should be less than or equal to {most}",
    "Input should be greater than {least}",
    "Input should be less than {most}",
    "Input should be {values}",
    "Input should be a valid dictionary",
    "Input should be a valid tuple",
    "Input should be a finite number",
    "List should have at least {least} item after validation, not {count}",
    "String should have at least {least} character",
    "String should match pattern '{pattern}'",
    "Field required",
)


def messages() -> dict[str, list[str]]:
    """Every message, and the files where it stands."""
    found: dict[str, list[str]] = {}
    for place, message in [*_help_pages(), *_in_code()]:
        places = found.setdefault(message, [])
        if place not in places:
            places.append(place)
    return found


def _help_pages() -> Iterator[tuple[str, str]]:
    from typer.main import get_command

    from sage.middleware.cli.main import app

    for command in walk(get_command(app)):
        yield from ((f"sage {command.name} --help", text) for _, _, text in texts(command))
    yield from (("sage/middleware/cli/language/templates.py", joint) for joint in JOINTS)
    yield from (("typer", text) for text in (*_FRAMEWORK, *_CAUSES, *page_texts()) if text)


def _in_code() -> Iterator[tuple[str, str]]:
    errors = _OTHER_ERRORS | _error_classes()
    for room in _ROOMS:
        path = ROOT / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            place = str(file.relative_to(ROOT))
            tree = _with_constants(ast.parse(file.read_text(encoding="utf-8")))
            for message in _of_calls(tree, errors, room == _CLI):
                yield place, message


def _with_constants(module: ast.Module) -> ast.AST:
    """The module with the texts of its constants where f-strings name them: they are words of a message."""
    texts = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts[_name(node.targets[0])] = node.value

    class Filled(ast.NodeTransformer):
        def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
            plain = node.conversion == -1 and node.format_spec is None
            return texts.get(node.value.id, node) if plain and isinstance(node.value, ast.Name) else node

    return Filled().visit(module)


def _error_classes() -> set[str]:
    """The names of all subclasses of ``SageError``, by the syntax trees."""
    known, size = {"SageError"}, 0
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "sage").rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while size != len(known):
        size = len(known)
        known |= {node.name for node in classes if any(_name(base) in known for base in node.bases)}
    return known


def _of_calls(tree: ast.AST, errors: set[str], has_marks: bool) -> Iterator[str]:
    """The marked messages, and those of errors that have words of their own."""
    for node in ast.walk(tree):
        if has_marks and isinstance(node, ast.Call) and node.args and _name(node.func) in _MARKS:
            yield from _texts_of(node.args[0])
        else:
            yield from filter(_has_words, _of_node(node, errors))


def _has_words(message: str) -> bool:
    return any(char.isalpha() for part, _ in parts_of(message) or [(message, None)] for char in part)


def _of_node(node: ast.AST, errors: set[str]) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and node.name == _WELCOME:
        for inner in ast.walk(node):
            if isinstance(inner, ast.List) or (isinstance(inner, ast.Call) and _name(inner.func) == "append"):
                yield from _texts_of((inner.elts if isinstance(inner, ast.List) else inner.args)[0])
    elif isinstance(node, ast.FunctionDef) and node.name in _RETURNING:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and inner.value is not None:
                yield from _texts_of(inner.value)
    elif isinstance(node, ast.Assign) and _name(node.targets[0]) in _VARIABLES:
        yield from _texts_of(node.value)
    elif isinstance(node, ast.Call) and node.args:
        yield from _of_call(node, errors)


def _of_call(node: ast.Call, errors: set[str]) -> Iterator[str]:
    name = _name(node.func)
    if name == "print_table" and isinstance(node.args[0], ast.Tuple):
        for title in node.args[0].elts:
            yield from _texts_of(title)
    elif name in _SECOND_ARGUMENT and len(node.args) > 1:
        yield from _texts_of(node.args[1])
    elif name in errors:
        yield from _texts_of(node.args[0])


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _texts_of(node: ast.expr) -> Iterator[str]:
    """The messages that an expression may have as its value."""
    if isinstance(node, ast.IfExp):
        yield from _texts_of(node.body)
        yield from _texts_of(node.orelse)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from _texts_of(value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield _template(node)


def _template(text: ast.JoinedStr) -> str:
    """An f-string as a template, whose names are those of its expressions."""
    template, names = "", {}
    for part in text.values:
        if isinstance(part, ast.Constant):
            template += str(part.value).replace("{", "{{").replace("}", "}}")
        elif isinstance(part, ast.FormattedValue):
            expression = ast.unparse(part.value)
            if expression not in names:
                name = _name(part.value) or "value"
                same = sum(1 for other in names.values() if other.rstrip("0123456789") == name)
                names[expression] = f"{name}{same + 1}" if same else name
            quote = "'" if part.conversion == ord("r") else ""
            template += f"{quote}{{{names[expression]}}}{quote}"
    return template


def translations(file: Path) -> dict[str, str]:
    """The entries of a catalogue."""
    return dict(read_po(file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}


def catalogue_text(language: str, places: Mapping[str, Iterable[str]], translated: Mapping[str, str]) -> str:
    """A catalogue as its file has it."""
    header = f"Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\nLanguage: {language}\n"
    entries = [_entry((), "", header)]
    entries += [_entry(where, message, translated.get(message, "")) for message, where in sorted(places.items())]
    return "\n".join(entries)


def _entry(places: Iterable[str], message: str, translation: str) -> str:
    comments = "".join(f"#: {place.replace(' ', '_')}\n" for place in places)
    flag = "#, python-brace-format\n" if parts_of(message) else ""
    return f"{comments}{flag}msgid {_quoted(message)}\nmsgstr {_quoted(translation)}\n"


def _quoted(text: str) -> str:
    """A string of a ``.po`` file; one with line ends takes a line for each of its own."""
    lines = text.splitlines(keepends=True) or [""]
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for line in lines]
    quoted = [f'"{line}"' for line in escaped]
    return quoted[0] if len(quoted) == 1 else "\n".join(['""', *quoted])


def write() -> None:
    """Brings every catalogue up to date."""
    found = messages()
    for file in sorted(DIRECTORY.glob("*.po")):
        file.write_text(catalogue_text(file.stem, found, translations(file)), encoding="utf-8")
        missing = sum(1 for message in found if not translations(file).get(message))
        print(f"{file.name}: {len(found)} messages, {missing} without a translation")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
