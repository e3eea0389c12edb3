"""What the framework of the command line prints, in the user's language: help pages and errors of usage."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from sage.middleware.cli.language.catalogue import _, current
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import width

# Typer brings click or depends on it, according to its version: these are the parts of it that Typer's own show.
_HelpFormatter: Any = typer.Context.formatter_class
UsageError: Any = typer.BadParameter.__base__

_RICH_TEXTS = (
    "DEPRECATED_STRING",
    "DEFAULT_STRING",
    "ENVVAR_STRING",
    "REQUIRED_LONG_STRING",
    "ARGUMENTS_PANEL_TITLE",
    "OPTIONS_PANEL_TITLE",
    "COMMANDS_PANEL_TITLE",
    "ERRORS_PANEL_TITLE",
    "ABORTED_TEXT",
    "RICH_HELP",
)
"""The texts of Typer's pages, which are variables of its module ``typer.rich_utils``."""
_CHINESE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(rf"\s*[（《「]*(?:[{_CHINESE}]|[^\s{_CHINESE}/]+/?|/)[，。：；？！、）》」]*\s*")
"""What stays on one line of a page: a word up to a slash, or one Chinese character, with its punctuation."""
_VALUES = {
    "bool": "",
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "FILE",
    "str": "TEXT",
    "list[str]": "TEXT",
}
"""What help pages call the value of an option that has no name for it, by its type in Python."""


class _Formatter(_HelpFormatter):  # type: ignore[misc]
    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or _("Usage: "))


class _Context(typer.Context):
    formatter_class = _Formatter

    def __init__(self, command: Any, *args: Any, **options: Any) -> None:
        super().__init__(command, *args, **options)
        option = command.get_help_option(self)
        if option is not None:
            option.help = _(option.help)
        for param in (*command.params, *([option] if option is not None else ())):
            _name_value(param, self)


class CommandGroup(TyperGroup):
    """The root of all commands: it and all below it speak the user's language, and name what a value means."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        if current() is not None:
            _translate_pages()
        for command in walk(self):
            command.context_class = _Context
            for owner, name, text in texts(command):
                setattr(owner, name, _(text))
        return _run(lambda: super(CommandGroup, self).make_context(*args, **options))

    def invoke(self, ctx: Any) -> Any:
        return _run(lambda: super(CommandGroup, self).invoke(ctx))


def walk(group: Any) -> Iterator[Any]:
    """``group`` and all commands and groups below it."""
    waiting = [group]
    while waiting:
        command = waiting.pop()
        yield command
        waiting += getattr(command, "commands", {}).values()


def texts(command: Any) -> Iterator[tuple[Any, str, str]]:
    """The texts that the help page of one command shows: each with its owner and the name of the field."""
    for owner in (command, *command.params):
        for name in ("help", "short_help", "epilog", "rich_help_panel"):
            text = getattr(owner, name, None)
            if isinstance(text, str) and text:
                yield owner, name, inspect.cleandoc(text)


def page_texts() -> list[str]:
    """The texts that Typer itself puts on pages."""
    from typer import rich_utils

    return [str(getattr(rich_utils, name, "")) for name in _RICH_TEXTS]


def _translate_pages() -> None:
    try:
        from rich import _wrap
        from rich.text import Text
        from typer import rich_utils
    except ImportError:  # without rich, Typer prints plain pages
        return
    # To rich, a Chinese sentence is one word.
    _wrap.re_word = _WORD
    setattr(Text, "rstrip_end", _strip_end)  # noqa: B010
    for name in _RICH_TEXTS:
        setattr(rich_utils, name, _(getattr(rich_utils, name, "")))
    # The texts of options stand in rich's Columns, which end with dots a word that is wider than they are.
    pages: Any = rich_utils
    columns = getattr(pages, "Columns", None)
    if columns is not None:
        pages.Columns = lambda texts: columns([_folded(text) for text in texts])


def _folded(text: Any) -> Any:
    text.overflow = "fold"
    return text


def _strip_end(text: Any, size: int) -> None:
    """Removes the spaces beyond ``size`` cells; rich's own counts characters, of which a Chinese one has two cells."""
    spaces = len(text.plain) - len(text.plain.rstrip())
    excess = min(spaces, width(text.plain) - size)
    if excess > 0:
        text.right_crop(excess)


def _name_value(param: Any, context: _Context) -> None:
    """Shows what the value of an option or argument means, not its type in Python; a flag has none."""
    if param.param_type_name == "argument":
        param.metavar = param.metavar or param.name.upper()
        param.display_type_rich = lambda ctx: None  # newer versions of Typer show a type beside the name
    elif param.metavar is None and hasattr(param, "display_type"):
        param.metavar = _VALUES.get(param.display_type(context).strip("<>"))


def _run(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except typer.Abort as exc:
        if isinstance(exc.__context__, KeyboardInterrupt):  # at a prompt: it ends the command as anywhere else
            raise KeyboardInterrupt from None
        raise
    except UsageError as exc:
        text = exc.format_message()
        shown = translated(text)
        if shown == text or type(exc).__name__ == "NoArgsIsHelpError":  # the message of that one is a help page
            raise
        raise UsageError(shown, exc.ctx) from None
